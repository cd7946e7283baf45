"""Derives a job's requirement from its spec, and checks whether the pool could ever meet it."""

from collections.abc import Mapping, Sequence

from footprint import Footprint, find_smaller_finetuning_options, find_smaller_models, format_gib
from jobs.errors import InvalidRequestError
from jobs.models.directories import GGUF_KIND
from jobs.records import ModelRecord
from jobs.scheduling import LoadedModel, Machine, Requirement, describe_missing_packages
from jobs.service.pool import will_use_gpus
from jobs.specs import AnySpec, ModelProperties, Resources

# Memory that a runner needs in addition to tensors: interpreter and libraries on the host, a CUDA context on a GPU.
RUNNER_HOST_BYTES = 512 * 2**20
RUNNER_DEVICE_BYTES = 512 * 2**20
# Host memory per byte of a GGUF file: llama.cpp maps the file and allocates the KV cache separately.
HOST_BYTES_PER_GGUF_BYTE = 1.25


def choose_requirement(
    spec: AnySpec, named: Mapping[str, ModelRecord], bases: Mapping[str, ModelRecord], machines: Sequence[Machine]
) -> Requirement | InvalidRequestError:
    """Return a job's requirement, or an error if no machine of the pool could ever hold the job.

    Args:
        spec: The job's spec; the first of its alternatives that fits the pool is used.
        named: Models that the spec names, by field.
        bases: Base of each adapter among them, by field.
        machines: All known machines.
    """
    on_gpu = will_use_gpus(machines)
    known = [ModelProperties.from_details(model.details) for model in {**bases, **named}.values()]
    sharded = all(model is None or model.precision.quantization is None for model in known)
    errors = []
    for way in spec.list_alternatives(on_gpu=on_gpu, sharded=sharded):
        requirement = derive_requirement(way, named, bases, on_gpu=on_gpu)
        error = find_shortage_error(requirement, machines, {**bases, **named}, asked=_asks_for_memory(spec))
        if error is None:
            return requirement
        errors.append(error)
    return errors[0]


def derive_requirement(
    spec: AnySpec, named: Mapping[str, ModelRecord], bases: Mapping[str, ModelRecord], *, on_gpu: bool
) -> Requirement:
    """Return the requirement of a job with this spec.

    Args:
        spec: What the user asked for.
        named: Models that the spec names, by field.
        bases: Base of each adapter among them, by field.
        on_gpu: Whether it will run on GPUs, which decides the "auto" precisions.
    """
    asked = spec.resources or Resources()
    models = [bases.get(field, model) for field, model in named.items() if field != "adapter"]
    estimated = _estimate_requirement(spec, models, on_gpu=on_gpu)
    exclusive = estimated.exclusive or spec.exclusive if asked.share is None else not asked.share
    memory = asked.device_memory_bytes
    return Requirement(
        nodes=asked.nodes,
        devices=estimated.devices if asked.devices is None else asked.devices,
        device_memory_bytes=estimated.device_memory_bytes if memory is None else memory,
        reserve_bytes=estimated.reserve_bytes if memory is None else memory,
        host_memory_bytes=estimated.host_memory_bytes,
        exclusive=exclusive,
        labels=tuple(sorted(asked.labels.items())),
        model=_find_model_key(spec, named, bases),
        workers=tuple(sorted(set(asked.workers or ()))),
        packages=tuple(sorted(spec.packages)),
    )


def _find_model_key(spec: AnySpec, named: Mapping[str, ModelRecord], bases: Mapping[str, ModelRecord]) -> str:
    dtype = spec.loaded_dtype
    if dtype is None:
        return ""
    model, base = named["model"], bases.get("model")
    loaded = (
        LoadedModel.from_records(model, named.get("adapter"), dtype)
        if base is None
        else LoadedModel.from_records(base, model, dtype)
    )
    return loaded.key


def find_shortage_error(
    requirement: Requirement, machines: Sequence[Machine], named: Mapping[str, ModelRecord], *, asked: bool = False
) -> InvalidRequestError | None:
    """Return an error if no machine of the pool could ever hold the job; None if one could, or if no machine is known.

    Args:
        requirement: What the job requires.
        machines: All known machines.
        named: Models that the spec names; the error lists which of their smaller formats would fit.
        asked: Whether the user set the memory per device, which replaces the estimate.
    """
    # If no worker has these labels or this name, report no error: such a worker may still start.
    machines = [machine for machine in machines if machine.meets_constraints(requirement)]
    if machines and not any(machine.has_packages(requirement) for machine in machines):
        message = f"no worker {describe_missing_packages(requirement)}, or change report_to"
        return InvalidRequestError(message, param="report_to")  # the only option that needs optional packages
    machines = [machine for machine in machines if machine.has_packages(requirement)]
    able = sum(machine.could_hold(requirement) for machine in machines)
    if not machines or able >= requirement.nodes:
        return None
    if able:
        message = (
            f"{able} of {len(machines)} workers could hold a node of this job, but it requires {requirement.nodes}"
        )
        return InvalidRequestError(f"{message} nodes; request fewer or start more workers", param="resources.nodes")
    return _build_shortage_error(requirement, machines, named, asked=asked)


def _build_shortage_error(
    requirement: Requirement, machines: Sequence[Machine], named: Mapping[str, ModelRecord], *, asked: bool
) -> InvalidRequestError:
    """Return the error to report if no machine could hold even one node of the job."""
    devices = [(device.get_usable_bytes(requirement), machine) for machine in machines for device in machine.devices]
    size, machine = max(devices, key=lambda each: each[0], default=(0, machines[0]))
    if requirement.devices and size < requirement.device_memory_bytes:
        needed = f"this job needs at least {format_gib(requirement.device_memory_bytes)} of memory"
        message = f"{needed}, but the largest device, on {machine.worker_id}, has {format_gib(size)}"
        if asked:
            remedy = "request less, or start a worker with a larger device"
            return InvalidRequestError(f"{message}; {remedy}", param="resources.device_memory_bytes")
        return InvalidRequestError(f"{message}; {_suggest_remedy(requirement, named, size)}", param="model")
    if requirement.devices > max(len(machine.devices) for machine in machines):
        most = max(len(machine.devices) for machine in machines)
        message = f"no worker has more than {most} devices, but this job requests {requirement.devices}; request fewer"
        return InvalidRequestError(message, param="resources.devices")
    host = max(machine.host_memory_bytes for machine in machines)
    message = f"this job needs {format_gib(requirement.host_memory_bytes)} of host memory, but no worker has more than"
    return InvalidRequestError(f"{message} {format_gib(host)}; use a machine with more memory", param="model")


def _asks_for_memory(spec: AnySpec) -> bool:
    """Whether the user set the memory per device, which replaces the estimate."""
    return spec.resources is not None and spec.resources.device_memory_bytes is not None


def _estimate_requirement(spec: AnySpec, models: Sequence[ModelRecord], *, on_gpu: bool) -> Requirement:
    """Estimate the requirement from the models' sizes; a job that loads a model of unknown size gets a whole device."""
    host, steps = 0, list[Footprint]()
    for model in models:
        known = ModelProperties.from_details(model.details)
        if model.kind == GGUF_KIND:
            host = max(host, int(int(model.details.get("bytes", 0)) * HOST_BYTES_PER_GGUF_BYTE))
        elif known is None:
            return Requirement(host_memory_bytes=RUNNER_HOST_BYTES, exclusive=True)
        else:
            steps += spec.estimate_footprints(known, on_gpu=on_gpu)
    on_device = [step for step in steps if step.place == "device"]
    host = max([host, *(step.total for step in steps if step.place == "host")])
    return Requirement(
        devices=1 if on_device else 0,
        device_memory_bytes=max((step.least for step in on_device), default=0),
        reserve_bytes=max((step.total + RUNNER_DEVICE_BYTES for step in on_device), default=0),
        host_memory_bytes=host + RUNNER_HOST_BYTES,
    )


def _suggest_remedy(requirement: Requirement, named: Mapping[str, ModelRecord], size: int) -> str:
    """Return a remedy: the smaller formats of the model that would fit in `size` bytes."""
    known = next((k for model in named.values() if (k := ModelProperties.from_details(model.details))), None)
    if known is None:
        return "use a machine with more memory"
    ways = find_smaller_finetuning_options if requirement.exclusive else find_smaller_models
    fitting = [
        f"{way}: {format_gib(least)}"
        for way, least in ways(known.shape, requirement.device_memory_bytes)
        if least <= size
    ]
    return f"what would fit: {', '.join(fitting)}" if fitting else "use a machine with more memory"
