"""The asset keys and names that one index has in Dagster: a contract with pipelines and dashboards, so in one place."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from embed_pipeline.catalog.route import Kind
from embed_pipeline.spec import IndexSpec

# By kind of route: the gate's answer about a version, and the move to it.
JUDGED: dict[Kind, str] = {"direct": "evaluation", "refine": "evaluation_refine", "bridge": "evaluation_bridge"}
CUTOVER: dict[Kind, str] = {"direct": "cutover", "refine": "cutover_refine", "bridge": "cutover_bridge"}


@dataclass(frozen=True)
class Names:
    """Names of everything that belongs to the index `index`. All of them begin with it, so that they stand together in Dagster's lists.

    Two underscores join names that are given, and stand in none of them: else a_b_c_gate would be of version c of a_b and of b_c of a. A route
    other than direct is named last, behind two as well: a__v_gate__refine is of v, a__v_gate_refine of nothing.
    """

    index: str

    @property
    def documents(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "documents"])

    @property
    def dual_write(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "dual_write"])

    @property
    def serving(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "serving"])

    @property
    def comparison(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "comparison"])

    @property
    def model_check(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "model_check"])

    @property
    def declaration(self) -> dg.AssetKey:
        """In place of everything else, of an index whose declaration cannot be read."""
        return dg.AssetKey([self.index, "declaration"])

    def group(self, version: str) -> str:
        """The box of a version in the graph, whose nodes are labelled by the last part of their keys alone."""
        return f"{self.index}__{version}"

    @property
    def serving_group(self) -> str:
        """The box of what comes after every version; in the index's own the graph would run in a circle."""
        return f"{self.index}_serving"

    def embeddings(self, version: str) -> dg.AssetKey:
        return self._of(version, "embeddings")

    def ann_index(self, version: str) -> dg.AssetKey:
        return self._of(version, "ann_index")

    def judged(self, version: str, route: Kind = "direct") -> dg.AssetKey:
        return self._of(version, JUDGED[route])

    def cutover(self, version: str, route: Kind = "direct") -> dg.AssetKey:
        return self._of(version, CUTOVER[route])

    def adapter(self, version: str) -> dg.AssetKey:
        return self._of(version, "adapter")

    def cost_curve(self, version: str) -> dg.AssetKey:
        return self._of(version, "cost_curve")

    @property
    def backfill_pool(self) -> str:
        """Only backfills take slots of it, so that they can never starve the dual-writes."""
        return f"{self.index}_backfill"

    @property
    def dual_write_job(self) -> str:
        return f"{self.index}_dual_write"

    @property
    def dual_write_sensor(self) -> str:
        return f"{self.index}_dual_write"

    @property
    def state_sensor(self) -> str:
        return f"{self.index}_state"

    @property
    def serving_checks(self) -> str:
        """The op that answers all checks of `serving` at once."""
        return f"{self.index}__serving__checks"

    @property
    def declaration_sensor(self) -> str:
        return f"{self.index}_declaration"

    @property
    def compare_job(self) -> str:
        return f"{self.index}_compare"

    @property
    def compare_schedule(self) -> str:
        return f"{self.index}_compare"

    @property
    def doctor_job(self) -> str:
        """Its schedule is called like it."""
        return f"{self.index}_doctor"

    @property
    def model_check_job(self) -> str:
        return f"{self.index}_model_check"

    @property
    def model_check_schedule(self) -> str:
        return f"{self.index}_model_check"

    @property
    def watch_job(self) -> str:
        return f"{self.index}_watch"

    @property
    def watch_sensor(self) -> str:
        return f"{self.index}_watch"

    @property
    def rollback_job(self) -> str:
        return f"{self.index}_rollback"

    @property
    def retry_job(self) -> str:
        return f"{self.index}_retry_dead_letters"

    @property
    def adopt_job(self) -> str:
        return f"{self.index}_adopt"

    @property
    def pause_job(self) -> str:
        return f"{self.index}_pause"

    @property
    def resume_job(self) -> str:
        return f"{self.index}_resume"

    @property
    def abort_job(self) -> str:
        return f"{self.index}_abort"

    def backfill_job(self, version: str) -> str:
        return self._job(version, "backfill")

    def backfill_schedule(self, version: str) -> str:
        return self._job(version, "backfill")

    def fit_job(self, version: str) -> str:
        return self._job(version, "fit")

    def preview_job(self, version: str) -> str:
        return self._job(version, "preview")

    def gate_job(self, version: str, route: Kind = "direct") -> str:
        return self._job(version, "gate", route)

    def cutover_job(self, version: str, route: Kind = "direct") -> str:
        return self._job(version, "cutover", route)

    def retire_job(self, version: str) -> str:
        return self._job(version, "retire")

    def job_of(self, command: str | None) -> str | None:
        """The job that does what the command of `embed-pipeline` does; None where a person has to do it."""
        verb, _, *rest = (command or "embed-pipeline  ").split(" ")[1:]
        of_index = {
            "rollback": self.rollback_job,
            "resume": self.resume_job,
            "dead-letters": self.retry_job,
            "check-model": self.model_check_job,
        }
        if verb == "sync":
            return self.compare_job if "--full" in rest else self.dual_write_job
        if verb in of_index or not rest:
            return of_index.get(verb)
        version = rest[0]
        route: Kind = "refine" if "refine" in rest[1:] else "bridge" if "bridge" in rest[1:] else "direct"
        of_version = {
            "plan": self.backfill_job(version),
            "backfill": self.backfill_job(version),
            "retire": self.retire_job(version),
        }
        return (of_version | {"gate": self.gate_job(version, route), "cutover": self.cutover_job(version, route)}).get(verb)

    def _of(self, version: str, what: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, version, what])

    def _job(self, version: str, verb: str, route: Kind = "direct") -> str:
        return f"{self.index}__{version}_{verb}" + ("" if route == "direct" else f"__{route}")


def documents_of(spec: IndexSpec) -> dg.AssetKey:
    """What everything of an index comes after: the user's own asset where one is declared."""
    if spec.documents is not None and spec.documents.asset is not None:
        return dg.AssetKey.from_user_string(spec.documents.asset)
    return Names(spec.name).documents


def after_documents(spec: IndexSpec) -> list[dg.AssetDep]:
    """The same as a dependency. The user's partitions, days mostly, are none of the key ranges: each of these needs all of them."""
    return [dg.AssetDep(documents_of(spec), partition_mapping=dg.AllPartitionMapping())]


def op_of(job: str) -> str:
    """The name of a job's only op. Jobs and ops share one room of names: `docs__v2_retire__op` is nothing else's."""
    return f"{job}__op"


def op_name(key: dg.AssetKey) -> str:
    """The name under which an asset's run configuration stands."""
    return key.to_python_identifier()
