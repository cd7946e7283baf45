"""The handlers, one module per job kind: each turns a spec into a `baichuan_core` call that writes artifacts."""
