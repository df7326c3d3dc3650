# %% [markdown]
# # ARC-AGI: solve the tasks, and leave a valid submission whatever fails
#
# A complete `submission.json` of fallback answers is written before anything is installed. Then `solver` runs as a child process
# under a deadline. Its answers replace the fallback ones as they come, and the file is only ever replaced as a whole. Lines that
# begin with `!!!` tell of failures. After a failure the notebook goes on with the best valid file it has.
#
# Generated from `kaggle/submission.py` by `make kaggle-notebook`. Edit that file. `kaggle/README.md` tells how to submit.

# %% tags=["parameters"]
import time

BEGAN = time.monotonic()  # first of all: every deadline counts from here

COMPETITION = "arc-prize-2026-arc-agi-2"
SOLVER = "arc-solver"  # the data set with the solver's wheel
WHEELS = ["arc-solver-wheels"]  # data sets of offline wheels; none has to be attached
MODEL = ""  # the slug of an attached model, or of a data set with one; empty: the model in the solver's wheel
SETTINGS = []  # of `solver run --set`, for example "train.lr=1e-4"

LIMIT = 12 * 3600  # seconds after which Kaggle ends a kernel, and everything is lost
RESERVE = 90 * 60  # seconds of these to leave to Kaggle's infrastructure; the one number to change
FIRST_RUN = 5 * 60  # seconds of a run that is not scored, on the placeholder file of tasks

# %% [markdown]
# ## Where things are

# %%
import collections
import contextlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

ROOT = Path(os.environ.get("SOLVER_KAGGLE_ROOT", "/"))  # another folder than / only in rehearsals
INPUT, WORKING = ROOT / "kaggle/input", ROOT / "kaggle/working"
SUBMISSION, LOGS = WORKING / "submission.json", WORKING / "logs"
RERUN = os.environ.get("KAGGLE_IS_COMPETITION_RERUN", "").lower() not in ("", "0", "false")  # the run that is scored
SECONDS = LIMIT - RESERVE if RERUN else FIRST_RUN
TAIL = min(120, SECONDS / 10)  # seconds after the solver, for the last check and for tidying up
KEPT = {path.name for path in WORKING.glob("*")}  # what was in the output folder before


# %%
def left():
    """Seconds until the notebook has to be done."""
    return BEGAN + SECONDS - time.monotonic()


def say(text, loud=False):
    """Print a line with the time since the start. A loud line is about a failure."""
    print(f"{'!!! ' if loud else ''}[{time.monotonic() - BEGAN:7.1f} s] {text}", flush=True)


def attempt(what, function, *arguments):
    """The result of a step. If the step fails, a loud line and None: no step may end the notebook."""
    try:
        return function(*arguments)
    except Exception as error:
        say(f"{what} failed: {type(error).__name__}: {error}", loud=True)
        return None


def attached(slug):
    """The folder of a competition, data set or model by its slug, or None. Kaggle puts different folders before the slug."""
    # SLUG, competitions/SLUG, datasets/OWNER/SLUG, models/OWNER/SLUG
    places = itertools.chain(*(sorted(INPUT.glob(f"{before}{slug}")) for before in ("", "*/", "*/*/") if slug))
    return next((place for place in places if place.is_dir()), None)


def found(pattern, slug=""):
    """The files of that name below the input `slug`, or below all inputs if it has none or is not attached."""
    folders = filter(None, (attached(slug), INPUT))
    return next((paths for folder in folders if (paths := sorted(folder.rglob(pattern)))), [])


def scratch_folder():
    """A folder for everything that is not output: outside of the output folder, unless there is room only in it."""
    places = [place for place in (ROOT / "tmp", WORKING) if os.access(place, os.W_OK)]
    roomy = [place for place in places if shutil.disk_usage(place).free > 2**30]
    return Path(tempfile.mkdtemp(prefix="solver-", dir=(roomy or places)[0]))


say(f"{'the scored rerun' if RERUN else 'a first run on placeholder tasks'}: {SECONDS:.0f} s until the notebook has to be done")

# %% [markdown]
# ## The fallback submission, with the standard library alone


# %%
def is_grid(value):
    """Whether a value is a grid: 1 to 30 rows of equal length, 1 to 30 cells each, of colours 0 to 9."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return False
    cells = [cell for row in value for cell in row]
    fits = 1 <= len(value) <= 30 and 1 <= len(value[0]) <= 30 and len({len(row) for row in value}) == 1
    return fits and all(type(cell) is int and 0 <= cell <= 9 for cell in cells)


def pairs_of(task, part):
    """The list of pairs in `part` of a task; empty if the task is broken."""
    pairs = task.get(part) if isinstance(task, dict) else None
    return pairs if isinstance(pairs, list) else []


def fallback_answers(task):
    """Two different guesses for each test input: the input itself, outputs of demonstrations, a single cell."""
    outputs = [pair.get("output") for pair in pairs_of(task, "train") if isinstance(pair, dict)]
    answers = []
    for test in pairs_of(task, "test") or [None]:  # a broken task has one test input
        shown = test.get("input") if isinstance(test, dict) else None
        guesses = [grid for grid in (shown, *outputs, [[0]], [[1]]) if is_grid(grid)]
        second = next(grid for grid in guesses if grid != guesses[0])
        answers.append({"attempt_1": guesses[0], "attempt_2": second})
    return answers


def flaw(submission):
    """What is wrong with a submission for the challenges; empty if it is complete and valid."""
    if not isinstance(submission, dict) or set(submission) != set(FALLBACK):
        return "it does not answer exactly the tasks of the challenges"
    for id_, answers in submission.items():
        if not isinstance(answers, list) or len(answers) != len(FALLBACK[id_]):
            return f"task {id_}: not one answer for each test input"
        for answer in answers:
            named = isinstance(answer, dict) and set(answer) == {"attempt_1", "attempt_2"}
            if not named or not all(map(is_grid, answer.values())):
                return f"task {id_}: an answer is not two grids"
    return ""


def publish(submission):
    """Replace the submission in the output folder as a whole. If that fails, the file that is there stays."""
    temporary = WORKING / ".submission.json.tmp"
    try:
        with temporary.open("w") as file:
            json.dump(submission, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(SUBMISSION)
    finally:
        temporary.unlink(missing_ok=True)


def published():
    """The submission in the output folder, or None."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(SUBMISSION.read_text())


# %%
challenge_files = found("*test_challenges*.json", COMPETITION)
if not challenge_files:
    others = ", ".join(str(path.relative_to(INPUT)) for path in found("*.json")[:20]) or "no JSON file at all"
    raise FileNotFoundError(f"no *test_challenges*.json below {INPUT}, only {others}; attach the competition {COMPETITION}")
CHALLENGES = challenge_files[0]
tasks = json.loads(CHALLENGES.read_text(encoding="utf-8-sig"))  # without readable challenges nothing can be submitted
if not isinstance(tasks, dict) or not tasks:
    raise ValueError(f"{CHALLENGES}: holds no tasks by id")
FALLBACK = {id_: fallback_answers(task) for id_, task in tasks.items()}
attempt("writing the fallback submission", publish, FALLBACK)
say(f"{len(FALLBACK)} tasks in {CHALLENGES}; fallback answers are in {SUBMISSION}")

# %% [markdown]
# ## Child processes that cannot outlive their time

# %%
SCRATCH = attempt("making a scratch folder", scratch_folder)
Ended = collections.namedtuple("Ended", "code lines why")  # code None, and why: the notebook ended it


def end_group(process):
    """End a child with all processes of its group: politely, and by force if it does not obey within seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(5, TAIL / 4))


def save_log(name, lines, mode="a"):
    """Write lines to a log in the output folder. A log that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        LOGS.mkdir(exist_ok=True)
        with (LOGS / name).open(mode, encoding="utf-8", errors="replace") as file:
            file.writelines(lines)


# %%
def run(name, command, path, seconds, silence=float("inf"), shown=True, look=None):
    """Run a child process for at most `seconds`, and end it sooner if it prints nothing for `silence` seconds.

    `path`: folders from which it imports before the image's own packages. `look` is called every 10 seconds.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    path = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
    # a notebook asks for colours, and so for tables that are redrawn in place; here plain lines are wanted
    environment |= {"NO_COLOR": "1", "TERM": "dumb", "PYTHONUNBUFFERED": "1", "TMPDIR": str(SCRATCH)}
    environment["PYTHONPATH"] = os.pathsep.join(path)
    process = subprocess.Popen(
        list(map(str, command)), cwd=SCRATCH, env=environment, start_new_session=True, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    queued, lines = queue.Queue(), collections.deque(maxlen=20_000)
    reader = threading.Thread(target=lambda: [queued.put(line) for line in process.stdout], daemon=True)
    reader.start()
    began = heard = looked = time.monotonic()
    why = ""
    try:
        while not why:
            running = process.poll() is None
            if not running:
                reader.join(1)  # no longer: a process that it left behind may hold the pipe
            with contextlib.suppress(queue.Empty):
                lines.append(queued.get(timeout=0.2 if running else 0))
                heard = time.monotonic()
                if shown:
                    print("   ", lines[-1].rstrip(), flush=True)
            now = time.monotonic()
            if not running and queued.empty():
                break
            if now - began > seconds:
                why = f"its {seconds:.0f} s were up"
            elif now - heard > silence:
                why = f"it had printed nothing for {silence:.0f} s"
            elif look and now - looked > 10:
                looked = now
                with contextlib.suppress(Exception):
                    look()
    finally:
        end_group(process)  # also what a child that ended left behind, and all if somebody stops the cell
    save_log(f"{name}.txt", [f"$ {' '.join(map(str, command))}\n", *lines, f"exit code {process.returncode} {why}\n"])
    return Ended(None if why else process.returncode, list(lines), why)


def last_words(ended):
    """How a child ended, with the last line it printed."""
    how = f"ended by the notebook: {ended.why}" if ended.why else f"exit code {ended.code}"
    return f"{how}; its last line: {(ended.lines or ['(nothing)'])[-1].strip()[:300]}"


# %% [markdown]
# ## The solver, and the wheels that the image lacks


# %%
def solver_folder():
    """A folder to import the solver from: a wheel of it is unpacked, a folder of its source is used as it is."""
    if SCRATCH is None:
        raise RuntimeError("there is no scratch folder")
    for wheel in reversed(found("solver-*.whl", SOLVER)):  # of several the newest version
        folder = SCRATCH / "solver-package"
        with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)  # checks the checksum of every file
            with contextlib.suppress(OSError, ValueError, KeyError):  # for the solver's summary.json
                os.environ["SOLVER_COMMIT"] = json.loads(wheel.with_name("version.json").read_text())["commit"]
            say(f"the solver is {wheel.name}, commit {os.environ.get('SOLVER_COMMIT') or 'unknown'}")
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        say(f"{wheel} is damaged, or the disk is full: it cannot be unpacked; attach the data set anew", loud=True)
    for source in found("solver/__main__.py", SOLVER):
        say(f"the solver is the source in {source.parent}")
        return source.parent.parent
    raise FileNotFoundError(f"no solver-*.whl below {INPUT}: attach the data set {SOLVER}")


def wheels_folder():
    """Install the attached wheels. Gives the folder to import them from; None: there are none, or the image's own suffice."""
    folders = [folder for slug in WHEELS if (folder := attached(slug))]
    installers = [path for folder in folders for path in sorted(folder.rglob("install.py"))]
    if not installers:
        say("no wheels are attached: the image's own packages are used")
        return None
    seconds = min(1800, left() / 4)
    wheels = itertools.chain(*(("--wheels", folder) for folder in folders))
    options = ("--prefix", SCRATCH / "wheels", "--seconds", f"{0.9 * seconds:.1f}", "--json")
    ended = run("install", [sys.executable, installers[0], *wheels, *options], (), seconds)
    report = {}
    with contextlib.suppress(ValueError, IndexError):
        report = json.loads(ended.lines[-1])
    if ended.code == 0 and isinstance(report, dict) and report.get("ok"):
        return report.get("path")
    shutil.rmtree(SCRATCH / "wheels", ignore_errors=True)  # room for the run
    raise RuntimeError(report.get("error") or last_words(ended))


solver_path = attempt("unpacking the solver", solver_folder)
wheels_path = attempt("installing the wheels", wheels_folder) if solver_path else None
ALONE = [solver_path]  # what the solver is imported from beside the image's packages, without and with the wheels
TOGETHER = [solver_path, *filter(None, [wheels_path])]

# %% [markdown]
# ## What this machine offers


# %%
def doctor(path):
    """What `solver doctor` finds, by topic; empty if it takes too long. Raises RuntimeError if nothing can run."""
    ended = run("doctor", [sys.executable, "-m", "solver", "doctor", "--json"], path, min(600, left() / 4), shown=False)
    text = "".join(ended.lines)
    try:  # it may have said everything and not have ended
        report = json.loads(text[text.index("{\n") : text.rindex("}") + 1])
        findings = {topic: finding for topic, finding in report["findings"].items() if finding["state"] != "missing"}
    except (ValueError, KeyError, TypeError):
        if ended.code is not None:
            raise RuntimeError(f"solver doctor: {last_words(ended)}") from None
        say(f"solver doctor was {last_words(ended)}", loud=True)
        return {}
    for topic, finding in findings.items():
        say(f"{topic}: {finding['value']} ({finding['state']}{', ' * bool(finding['why'])}{finding['why']})")
    if not report["ready"]:
        raise RuntimeError("the solver cannot run with these packages, see above")
    return findings


def machine_for(findings):
    """The solver's machine preset for the GPUs that torch can use."""
    if not findings:  # nobody knows what torch can use
        return "kaggle-t4x2" if list(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
    usable = [finding for topic, finding in findings.items() if topic.startswith("cuda:") and finding["state"] == "ok"]
    if not usable:
        return "cpu"
    oldest = min(float(finding["why"].split()[-1]) for finding in usable)  # "capability 8.9"
    return "kaggle-l4x4" if oldest >= 8 else "kaggle-t4x2"  # with or without bf16 units


def model_folder():
    """The folder of the attached model; None: none is asked for. Raises FileNotFoundError if it is not there."""
    if not MODEL:
        return None
    folder = attached(MODEL)
    for config in sorted(folder.rglob("config.json")) if folder else ():
        return config.parent
    raise FileNotFoundError(f"no config.json below the input {MODEL}: attach it as a model or a data set")


def known_answers():
    """A file of solutions that shares task ids with the challenges, for a score of the first run; None without one."""
    shared = {}
    for path in CHALLENGES.parent.glob("*solutions*.json"):
        with contextlib.suppress(OSError, ValueError):
            shared[path] = len(set(FALLBACK) & set(json.loads(path.read_text(encoding="utf-8-sig"))))
    best = max(shared, key=shared.get, default=None)
    return best if best and shared[best] else None


# %% [markdown]
# ## The run: as configured, and with less if that fails

# %%
Way = collections.namedtuple("Way", "name path machine model settings")
DOCTORS = {}  # folders to import from -> what the doctor found with them
RESULTS = {}  # folder of a run -> its newest valid submission, the best run first


def keep(out):
    """Publish what a run has found so far, beside what runs before it found. Gives whether it found anything."""
    submission = json.loads((out / "submission.json").read_text())
    if problem := flaw(submission):
        raise ValueError(f"the solver's submission is not valid: {problem}")
    RESULTS[out] = submission
    best = {
        id_: next((answers[id_] for answers in RESULTS.values() if answers[id_] != fallback), fallback)
        for id_, fallback in FALLBACK.items()
    }
    if best != published():
        publish(best)
    return submission != FALLBACK


# %%
def solve(way, out):
    """One run of the solver. Gives its exit code, None if it was ended."""
    if way.machine is None and tuple(way.path) not in DOCTORS:
        DOCTORS[tuple(way.path)] = doctor(way.path)
    machine = way.machine or machine_for(DOCTORS[tuple(way.path)])
    until = left() - TAIL
    arguments = ["--out", out, "--until", time.time() + until, "--machine", machine, "--model", way.model or "embedded"]
    arguments += ["--scratch", SCRATCH / "adapters", "--set", "input.on_bad_task=fallback"]
    arguments += [part for setting in way.settings for part in ("--set", setting)]
    solutions = None if RERUN else attempt("reading known answers", known_answers)
    arguments += ["--solutions", solutions] if solutions else []
    say(f"solver run: {way.name}, machine {machine}, {until:.0f} s")
    command = [sys.executable, "-m", "solver", "run", CHALLENGES, *arguments]
    ended = run("run", command, way.path, until + TAIL / 10, silence=min(900, until / 2), look=lambda: keep(out))
    if ended.code != 0:
        say(f"solver run failed: {last_words(ended)}", loud=True)
    return ended.code


def solve_somehow(ways):
    """Try one way after the other until one ends well. A run that broke off in the middle is resumed, twice at most."""
    outs = {}
    for number, way in enumerate(ways, 1):
        out = outs.setdefault((way.model, tuple(way.settings)), SCRATCH / f"run-{number}")
        for _ in range(3):
            if left() < TAIL + SECONDS / 10:
                return
            code = attempt(f"the way {way.name!r}", solve, way, out)
            for name in ("log.txt", "worker.log", "summary.json"):
                with contextlib.suppress(OSError):
                    save_log(f"{out.name}-{name}", [(out / name).read_text(errors="replace")[-1_000_000:]], "w")
            progress = attempt("reading the answers", keep, out) if (out / "submission.json").exists() else None
            if code == 0:
                return
            if not progress:
                break
        if code == 2:  # the folder, or what is in it, may be at fault
            outs.clear()


if solver_path:
    as_configured = Way("as configured", TOGETHER, None, attempt("finding the model", model_folder), SETTINGS)
    plain = Way("the image's packages, the model in the wheel, default settings", ALONE, None, None, [])
    cpu = plain._replace(name="the same without GPU", machine="cpu")
    attempt("solving", solve_somehow, [as_configured, plain, cpu])

# %% [markdown]
# ## The last check, and a tidy output folder


# %%
def tidy():
    """Leave the submission and the logs in the output folder, what was there before, and what Kaggle keeps there."""
    if SCRATCH:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    for path in WORKING.iterdir():
        if path not in (SUBMISSION, LOGS) and path.name not in KEPT and not path.name.startswith("__notebook"):
            say(f"removed from the output folder: {path.name}")
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


if flaw(published()):
    say(f"the published submission is not valid ({flaw(published())}); the fallback answers replace it", loud=True)
    attempt("writing the fallback submission", publish, FALLBACK)
if solver_path:
    command = [sys.executable, "-m", "solver", "check", SUBMISSION, CHALLENGES]
    ended = attempt("solver check", run, "check", command, TOGETHER, max(5, left()))
    if ended and ended.code == 1 and any(line.startswith("task ") for line in ended.lines):
        say("solver check names defects of the submission; the fallback answers replace it", loud=True)
        attempt("writing the fallback submission", publish, FALLBACK)
    elif ended and ended.code != 0:  # it says nothing about the submission, which was judged above, too
        say(f"solver check failed: {last_words(ended)}", loud=True)
attempt("tidying up", tidy)
problem = flaw(published())
if problem:
    raise RuntimeError(f"{SUBMISSION} is not a valid submission: {problem}")
answered = sum(answers != FALLBACK[id_] for id_, answers in published().items())
say(f"{SUBMISSION} is complete and valid: {answered} of {len(FALLBACK)} tasks have answers of the solver", loud=not answered)
