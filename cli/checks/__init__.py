"""What `baichuan doctor` looks at."""
