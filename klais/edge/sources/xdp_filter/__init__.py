"""What the sources behind the XDP filter share."""
