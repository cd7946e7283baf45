"""One file a job kind, found by the kind's name: spec in, one `baichuan_core` call, artifacts out."""
