"""What a process finds elsewhere than on a developer's Linux: called at its start by tests/fakes/tiny/sitecustomize.py."""

import ctypes
import errno
import os
import signal
import subprocess
import sys


def windows() -> None:
    """A system without what Windows lacks, where signals and open files are as they are there. Paths and the scripts' own check of
    `os.name` stay POSIX, since Python itself would not run otherwise."""
    without("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
    for module, names in (
        (os, "sched_getaffinity posix_fallocate fork forkpty killpg setsid getpgid mkfifo"),
        (signal, "SIGHUP SIGKILL SIGQUIT SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGTSTP"),
    ):
        for name in names.split():
            delattr(module, name)
    signal.SIGBREAK = signal.CTRL_BREAK_EVENT = signal.SIGUSR1  # a signal of its own stands in for the console's event
    del signal.SIGUSR1
    kill = os.kill

    def windows_kill(pid: int, number: int) -> None:
        """As there: everything but the console's events ends the process, 0 included. A library that asks because this is no Windows
        by `sys.platform` gets its answer."""
        if number == 0 and "site-packages" in sys._getframe(1).f_code.co_filename:
            kill(pid, 0)
        else:
            kill(pid, number if number == signal.CTRL_BREAK_EVENT else 9)

    os.kill = windows_kill
    ctypes.WinDLL = lambda name, use_last_error: Kernel32(kill)
    ctypes.get_last_error = lambda: 87  # there is no such process
    replace, refused = os.replace, set()

    def windows_replace(source: str, target: str) -> None:
        """Refused the first two times, as when another process has the file open."""
        for time_ in (1, 2):
            if os.path.exists(target) and (str(target), time_) not in refused:
                refused.add((str(target), time_))
                error = PermissionError(errno.EACCES, "Access is denied", str(target))
                error.winerror = 5
                raise error
        replace(source, target)

    os.replace = windows_replace


class Kernel32:
    """What Windows offers to ask for a process."""

    def __init__(self, kill) -> None:
        def open_process(access: int, inherit: bool, pid) -> int:
            try:
                kill(pid.value, 0)
            except ProcessLookupError:
                return 0
            return pid.value

        self.OpenProcess = open_process

    def WaitForSingleObject(self, handle, milliseconds: int) -> int:
        return 0x102

    def CloseHandle(self, handle) -> None:
        pass


def without_flock() -> None:
    """A file system that can't lock, by the error in TEST_FLOCK_ERROR."""
    import fcntl

    def flock(file: object, operation: int) -> None:
        number = getattr(errno, os.environ["TEST_FLOCK_ERROR"])
        raise OSError(number, os.strerror(number))

    fcntl.flock = flock


def nobody() -> None:
    """A user that is in no list of users: as in a container that was started with a number for its user."""
    import pwd

    def unknown(user: object) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    pwd.getpwuid = pwd.getpwnam = unknown
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        os.environ.pop(name, None)


def without(*modules: str) -> None:
    for module in modules:
        sys.modules[module] = None


assert subprocess and os  # both look for what is missing when they are imported: before it is taken away
