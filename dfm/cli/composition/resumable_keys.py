"""The keys that a resumed run may change, because they change no number of the training."""

# What may change on resume, beside where the data lie: a key, or with a dot at the end all keys below it.
CHANGEABLE = (
    "trainer.max_steps",
    "trainer.max_minutes",
    "trainer.rate_on_resume",
    "trainer.accumulate",
    "trainer.parallel",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.sample_every",
    "trainer.validate_every",
    "trainer.log_every",
    "trainer.max_skipped",
    "trainer.device",
    "trainer.num_workers",
    "trainer.compile",
    "trainer.channels_last",
    "trainer.activation_checkpointing",
    "logger.",
    "decoder.",
    "nll.",
    "samples.",
)
CHANGEABLE_GROUPS = ("logger", "decoder")


def may_change(key: str) -> bool:
    """Whether a key or a group may change on resume, whatever the data set."""
    return key in CHANGEABLE_GROUPS or any(
        key.startswith(name) if name[-1] == "." else key == name for name in CHANGEABLE
    )
