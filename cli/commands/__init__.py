"""The commands of `baichuan`, with one file per group."""
