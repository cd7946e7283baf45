"""One file per job kind, found by the kind's name: spec in, one `baichuan_core` call, artifacts out."""
