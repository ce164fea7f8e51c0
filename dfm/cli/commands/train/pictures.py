"""The pictures of a training run, and the time that they may take.

All pictures before the last take at most ``FREE`` seconds and ``SHARE`` of the time of the training steps. A picture
for which there is no time shows fewer samples, or waits. The last one takes at most ``LAST`` seconds or ``SHARE``, and
has a row in any case. Pictures have no effect on the weights, so a clock may decide.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfm.cli import console
from dfm.cli.commands.train.training_run import TrainingRun
from dfm.cli.progress import Clock, Work
from dfm.cli.surroundings.signals import Interruption, StoppedError
from dfm.data.numbers.stored_form import stored
from dfm.runs.pictures.drawing import picture
from dfm.sampling.draw import Moment, batch_of, draw_samples
from dfm.sampling.labels import in_turn

FREE, LAST = 5.0, 60.0  # seconds: for all pictures before the last, and for the last
SHARE = 0.05  # of the time of the training steps, for the ones and for the other
ROW = 8  # samples that a picture has at least


def is_due(step: int, every: int, last: bool = False) -> bool:
    """Whether something is due at this step: every ``every`` steps (never if 0), and at the last one."""
    return last or (every > 0 and step % every == 0)


class _TooLongError(Exception):
    """The time of a picture is over."""


class Pictures:
    """The pictures of a run: grids of samples from the averaged weights, always of the same latents.

    Only the first process draws. A classifier has no pictures.

    Args:
        interruption: a signal ends a picture at once.
        shown: where the progress is shown.
        clock: returns the time in seconds.
    """

    def __init__(
        self, run: TrainingRun, interruption: Interruption, shown: Work, clock: Clock = time.monotonic
    ) -> None:
        self.run, self._interruption, self._shown, self._clock = run, interruption, shown, clock
        self._drawing = run.parts.objective.trains == "denoiser"
        self._first = run.job.world.first
        self._started, self._spent, self._needed = run.trainer.seconds, 0.0, 0.0
        self._waiting, self._told, self._begun = False, False, run.trainer.step

    def due(self) -> None:
        """Ask for a picture as soon as there is time for it. All processes must call this together."""
        self._waiting = self._drawing

    def start(self) -> None:
        """Ask for the picture before the first step, or for the one that a signal left out; for neither if never."""
        step, every = self.run.trainer.step, self.run.trainer.config.sample_every
        self._waiting = self._drawing and self._agree(is_due(step, every) and (step == 0 or self._missing()))

    def draw_if_possible(self) -> None:
        """Draw the picture that is due, if there is time for it. All processes must call this together."""
        if not self._waiting:
            return
        allowed = FREE + SHARE * (self.run.trainer.seconds - self._started) - self._spent
        if not self._agree(allowed >= self._needed and self._interruption.signal is None):
            return  # a resumed run draws it
        averaged = self.run.trainer.averaged(everywhere=False)
        self._waiting = self._agree(self._first and not self._draw(averaged, allowed))

    def draw_last(self) -> None:
        """Draw the picture of the last step, unless it is there. All processes must call this together."""
        if not self._drawing or not self._agree(self.run.trainer.step > self._begun or self._missing()):
            return
        averaged = self.run.trainer.averaged(everywhere=False)
        if self._first:
            self._draw(averaged, max(LAST, SHARE * self.run.trainer.seconds), last=True)

    def _missing(self) -> bool:
        """Whether there is no picture of the present step yet."""
        return not (self.run.directory / "samples" / f"step_{self.run.trainer.step:08d}.png").exists()

    def _draw(self, averaged: Any, limit: float, last: bool = False) -> bool:
        """Draw and store a picture, in at most ``limit`` seconds; return whether there is one.

        Args:
            last: whether the first row is drawn however long it takes.
        """
        n, start = self.run.settings.samples.n, self._clock()
        samples: list[Tensor] = []
        try:
            with self._shown.task(f"picture of step {self.run.trainer.step}", n, "samples", brief=True) as task:

                def watch(moment: Moment) -> None:
                    task.note(f"step {moment.state.step}")
                    if moment.state.final:
                        task.advance(len(moment.indices))
                    if self._clock() - start > limit and not (last and not samples):
                        raise _TooLongError

                samples.append(self._samples(averaged, range(min(ROW, n)), watch))
                each = (self._clock() - start) / len(samples[0])
                count = min(n, int(limit / max(each, 1e-9)) // ROW * ROW)
                if count > len(samples[0]):
                    samples.append(self._samples(averaged, range(len(samples[0]), count), watch))
        except _TooLongError:
            pass
        except StoppedError:
            return False  # the training loop sees the signal
        shown = self.run.decoder.drawn(torch.cat(samples), self.run.spec, self.run.device) if samples else None
        self._spent += self._clock() - start
        if shown is None:
            self._needed = 2 * limit
            self._tell("a picture is left out")
            return False
        found = len(shown[0])
        if found < n and last:
            console.say(f"the last picture has {found} of {n} samples; for more, try dfm sample ckpt=RUN")
        elif found < n:
            self._tell(f"a picture has {found} of {n} samples")
        assert self.run.recorder is not None
        self.run.recorder.picture(self.run.trainer.step, picture(*shown))
        return True

    def _samples(self, averaged: Any, indices: range, watch: Callable[[Moment], None]) -> Tensor:
        run = self.run
        with self._interruption.at_once():
            return draw_samples(
                averaged,
                run.parts.sampler,
                indices,
                seed=run.settings.samples.seed,
                batch_size=min(256, batch_of(None, run.spec, run.device)),
                labels=in_turn(run.spec, indices),
                device=run.device,
                convert=lambda x: stored(x, run.spec),
                watch=watch,
            ).samples

    def _agree(self, answer: bool) -> bool:
        """Return the answer of the first process."""
        world = self.run.job.world
        return answer if world.size == 1 else bool(world.all_max(float(self._first and answer)))

    def _tell(self, what: str) -> None:
        """Say once why a picture is not as asked."""
        if not self._told and self._first:
            self._told = True
            quicker = f"samples.n={ROW}" if self.run.settings.samples.n > ROW else "a sampler of fewer evaluations"
            console.say(
                f"{what}: pictures take at most {FREE:g} s and {SHARE:.0%} of the training's time, the last one "
                f"{LAST:g} s or {SHARE:.0%}; try {quicker} for quicker ones"
            )
