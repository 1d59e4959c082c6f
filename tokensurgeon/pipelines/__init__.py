"""Run several commands from one file, each on what those before it made."""

from tokensurgeon.pipelines.read import Pipeline, Stage, read_pipeline
from tokensurgeon.pipelines.run import Done, run_pipeline

__all__ = ["Done", "Pipeline", "Stage", "read_pipeline", "run_pipeline"]
