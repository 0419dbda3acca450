"""python one_process.py ROOT CASES: each case, a script and its flags, as `python script flags…` would run it, but all in one process, since
importing torch takes longer than all of them. Prints what each ended with, as JSON: status, stdout, stderr, and the files that it made or removed."""

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path

root, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
real, results = sys.stdout, []
for script, flags in cases:
    sys.argv = [str(root / script), *flags]
    out, err, before = io.StringIO(), io.StringIO(), set(map(str, Path().rglob("*")))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
    after = set(map(str, Path().rglob("*")))
    results.append([status, out.getvalue(), err.getvalue(), sorted(before ^ after)])
print(json.dumps(results), file=real)
