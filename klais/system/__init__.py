"""Operating system services for KLAIS: addresses, child processes, CPU, memory, ports, systemd."""
