"""`baichuan up`: the processes of a small deployment, started, watched and stopped together."""
