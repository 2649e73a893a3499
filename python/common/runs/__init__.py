"""The run folder: who holds it, what it says about itself, how it is started and read. Nothing here knows torch.

    folders     where runs live, names, atomic JSON
    processes   who a process is, so that a reused pid is never mistaken for a run
    lock        the one holder of a run folder
    claim       taking a folder for a new run, and every reason not to
    log         where the output of a run goes
    run         class Run: what a training command holds while it trains
    status      what anyone else may read: state, progress, and why a run is not running
    launch      starting a run, in the foreground or the background (imported by the commands that do)
    ending      ending one from outside
    choose      which run a command means when none is named
    history     losses, metrics and warnings so far, and results what came of a run
    view, line  runs on a screen: tables, the live view, a line that is written over

A training command does::

    with runs.Run.create(name, output) as run:     # takes the lock; output still goes where it went
        run.write_manifest({...})                  # the run begins: run.json, and train.log from here on
        run.update_status("training", step=1, total_steps=30)
        if run.stop_requested():
            ...                                    # save, then
            raise StoppedRun("stopped at step 7")  # state `stopped`, exit code 75
"""

from common.runs.claim import check_available, free_name
from common.runs.folders import (
    ROOT,
    check_run_name,
    list_runs,
    read_json,
    run_folder,
    runs_dir,
    utc_now,
    write_json,
)
from common.runs.run import Run
from common.runs.status import read_status

__all__ = [
    "ROOT",
    "Run",
    "check_available",
    "check_run_name",
    "free_name",
    "list_runs",
    "read_json",
    "read_status",
    "run_folder",
    "runs_dir",
    "utc_now",
    "write_json",
]
