"""Keys of files that belong to a job and its attempts in the artifact store."""

from dataclasses import dataclass

MARKER_FOLDER = "complete"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Keys of all files that one attempt writes; no other code builds such keys."""

    job_id: str
    attempt_id: str

    @property
    def key(self) -> str:
        """Key of the folder that holds all files of the attempt."""
        return f"jobs/{self.job_id}/{self.attempt_id}"

    @property
    def output(self) -> str:
        """Key of the files that become artifacts."""
        return f"{self.key}/output"

    @property
    def checkpoints(self) -> str:
        """Key of the files that a later attempt resumes from."""
        return f"{self.key}/checkpoints"

    def resume_point_key(self, step: int) -> str:
        """Return the key of the resume point saved at this step."""
        return f"{self.checkpoints}/checkpoint-{step}"

    def marker_key(self, step: int) -> str:
        """Return the key of the resume point's description, which is written once the resume point is complete."""
        return f"{self.checkpoints}/{MARKER_FOLDER}/{step}.json"


def published_model_key(job_id: str, name: str) -> str:
    """Return the key of a model that was published from a resume point of the job."""
    return f"jobs/{job_id}/{name}"


def input_key(job_id: str) -> str:
    """Return the key of the prompts or conversations that were sent with a job."""
    return f"jobs/{job_id}/input.json"
