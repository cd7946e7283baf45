"""The checks of `baichuan doctor`."""
