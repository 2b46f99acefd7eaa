import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iris_gym.training.logs import close_logger, log_marks, rewind_logs, run_logger


def log(folder: Path, *rows: dict[str, float], verbose: int = 0) -> None:
    logger = run_logger(folder, verbose)
    for step, row in enumerate(rows):
        for name, value in row.items():
            logger.record(name, value)
        logger.dump(step)
    logger.close()


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "progress.csv").read_text().splitlines()))


def test_csv_and_tensorboard_hold_what_is_recorded(tmp_path):
    log(tmp_path / "logs", {"loss": 2.0}, {"loss": 1.0})
    assert rows(tmp_path / "logs") == [{"loss": "2.0"}, {"loss": "1.0"}]
    events = EventAccumulator(str(tmp_path / "logs")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(0, 2.0), (1, 1.0)]


def test_a_resumed_run_goes_on_in_the_csv(tmp_path):
    log(tmp_path, {"loss": 2.0})
    log(tmp_path, {"loss": 1.0}, {"loss": 0.5})
    assert [row["loss"] for row in rows(tmp_path)] == ["2.0", "1.0", "0.5"]


def test_a_resumed_run_may_have_new_columns(tmp_path):
    log(tmp_path, {"a": 1.0, "b": 2.0})
    log(tmp_path, {"c": 3.0, "a": 4.0})
    assert rows(tmp_path) == [{"a": "1.0", "b": "2.0", "c": ""}, {"a": "4.0", "b": "", "c": "3.0"}]


def test_opening_alone_loses_nothing(tmp_path):
    log(tmp_path, {"loss": 2.0})
    log(tmp_path)
    assert rows(tmp_path) == [{"loss": "2.0"}]


@pytest.mark.parametrize("torn", ["loss,en", "loss,end\n1.0,2.0\n3.", ""])
def test_a_line_torn_by_a_crash_does_not_spoil_the_next(torn, tmp_path):
    (tmp_path / "progress.csv").write_text(torn)
    log(tmp_path, {"loss": 5.0, "end": 6.0})
    whole = [{"loss": "1.0", "end": "2.0"}] if "1.0" in torn else []
    assert rows(tmp_path) == [*whole, {"loss": "5.0", "end": "6.0"}]


def test_a_table_is_printed_where_asked_for(tmp_path, capsys):
    log(tmp_path / "quiet", {"group/loss": 2.0})
    assert capsys.readouterr().out == ""
    log(tmp_path / "loud", {"group/loss": 2.0}, verbose=1)
    assert "loss" in capsys.readouterr().out


def test_what_was_logged_after_a_checkpoint_is_taken_back(tmp_path):
    """By a process that was killed then, and by one between, of which nothing counts."""
    logger = run_logger(tmp_path, 0)
    for step in range(4):
        logger.record("loss", float(step))
        if step == 2:
            marks = log_marks(logger)
            logger.record("new", 1.0)
        logger.dump(step)
    log(tmp_path, {"loss": 9.0})
    rewind_logs(tmp_path, marks)
    log(tmp_path, {"loss": 2.5}, {"loss": 3.5})
    assert [row["loss"] for row in rows(tmp_path)] == ["0.0", "1.0", "2.5", "3.5"]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(event.value for event in events.Scalars("loss")) == [0.0, 1.0, 2.5, 3.5]
    assert "new" not in events.Tags()["scalars"]
    logger.close()


def test_a_kill_while_a_column_is_added_costs_no_line(tmp_path, monkeypatch):
    log(tmp_path, {"loss": 2.0})
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        log(tmp_path, {"loss": 1.0, "end": 3.0})
    assert rows(tmp_path) == [{"loss": "2.0"}]


def test_texts_and_pictures_break_no_line(tmp_path):
    log(tmp_path, {"text": 'a,"b"\nc', "loss": 1.0})
    assert rows(tmp_path) == [{"loss": "1.0", "text": 'a,"b" c'}]


def test_a_full_disk_is_not_told_again_when_the_run_is_over(tmp_path, monkeypatch):
    logger = run_logger(tmp_path, 0)
    close = logger.output_formats[1].close

    def full():
        close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logger.output_formats[1], "close", full)
    close_logger(logger)
    assert logger.output_formats[0].file.closed
