"""The asset keys and names that one index has in Dagster: a contract with pipelines and dashboards, so in one place."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg


@dataclass(frozen=True)
class Names:
    """Names of everything that belongs to the index `index`.

    Two underscores join names that are given, and stand in none of them: else gate_a_b_c would be of version c of a_b and of b_c of a.
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

    def embeddings(self, version: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, "embeddings", version])

    def ann_index(self, version: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, "ann_index", version])

    def evaluation(self, version: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, "evaluation", version])

    def refinement(self, version: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, "refinement", version])

    def bridge(self, version: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, "bridge", version])

    def adapter(self, version: str) -> dg.AssetKey:
        return dg.AssetKey([self.index, "adapter", version])

    @property
    def cost_curve(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "cost_curve"])

    @property
    def backfill_pool(self) -> str:
        """Only backfills take slots of it, so that they can never starve the dual-writes."""
        return f"{self.index}_backfill"

    @property
    def dual_write_job(self) -> str:
        return f"dual_write_{self.index}"

    @property
    def dual_write_sensor(self) -> str:
        return f"{self.index}_dual_write"

    @property
    def declaration(self) -> dg.AssetKey:
        """In place of everything else, of an index whose declaration cannot be read."""
        return dg.AssetKey([self.index, "declaration"])

    @property
    def declaration_sensor(self) -> str:
        return f"{self.index}_declaration"

    @property
    def compare_job(self) -> str:
        return f"compare_{self.index}"

    @property
    def compare_schedule(self) -> str:
        return f"{self.index}_compare"

    @property
    def rollback_job(self) -> str:
        return f"rollback_{self.index}"

    @property
    def model_check(self) -> dg.AssetKey:
        return dg.AssetKey([self.index, "model_check"])

    @property
    def model_check_job(self) -> str:
        return f"model_check_{self.index}"

    @property
    def model_check_schedule(self) -> str:
        return f"{self.index}_model_check"

    @property
    def retry_job(self) -> str:
        return f"retry_dead_letters_{self.index}"

    @property
    def adopt_job(self) -> str:
        return f"adopt_{self.index}"

    @property
    def pause_job(self) -> str:
        return f"pause_{self.index}"

    @property
    def resume_job(self) -> str:
        return f"resume_{self.index}"

    @property
    def abort_job(self) -> str:
        return f"abort_{self.index}"

    def backfill_job(self, version: str) -> str:
        return f"backfill_{self.index}__{version}"

    def backfill_schedule(self, version: str) -> str:
        return f"{self.index}__{version}_backfill"

    def fit_job(self, version: str) -> str:
        return f"fit_{self.index}__{version}"

    def preview_job(self, version: str) -> str:
        return f"preview_{self.index}__{version}"

    def gate_job(self, version: str) -> str:
        return f"gate_{self.index}__{version}"

    def cutover_job(self, version: str) -> str:
        return f"cutover_{self.index}__{version}"

    def bridge_gate_job(self, version: str) -> str:
        return f"bridge_gate_{self.index}__{version}"

    def bridge_job(self, version: str) -> str:
        return f"bridge_{self.index}__{version}"

    def refine_gate_job(self, version: str) -> str:
        return f"refine_gate_{self.index}__{version}"

    def refine_job(self, version: str) -> str:
        return f"refine_{self.index}__{version}"

    def retire_job(self, version: str) -> str:
        return f"retire_{self.index}__{version}"


def op_of(job: str) -> str:
    """The name of a job's only op. Jobs and ops share one room of names: `retire_docs__op` is the job of a version named op."""
    return f"{job}__op"


def op_name(key: dg.AssetKey) -> str:
    """The name under which an asset's run configuration stands."""
    return key.to_python_identifier()
