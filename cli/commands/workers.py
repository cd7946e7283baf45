"""`baichuan workers`: who runs the jobs."""

from typing import Any

from cli.options import AsJson, Key, Url, connect
from cli.output import emit_list, moment, say, show_table


def workers(url: Url = None, key: Key = None, *, as_json: AsJson = False) -> None:
    """List the live workers."""
    with connect(url, key) as client:
        found = list(client.pages("/v1/workers"))
    if as_json:
        emit_list(found)
    elif found:
        rows = [
            (w["id"], w["hostname"], w["state"], w["slots"], ",".join(w["kinds"]), devices(w), moment(w["seen_at"]))
            for w in found
        ]
        show_table(("ID", "HOST", "STATE", "SLOTS", "KINDS", "DEVICES", "SEEN"), rows)
    else:
        say("no live workers: jobs wait until one is started with `baichuan worker`")


def devices(worker: Any) -> str:
    """The worker's devices in a few words."""
    return ", ".join(str(device.get("name") or device.get("type") or "?") for device in worker["devices"]) or "cpu"
