"""What KLAIS asks of the operating system: addresses, child processes, CPU, memory, ports, systemd."""
