"""What every test stands on: signals as a shell leaves them, and no one's W&B account."""

import os
import signal

# A CI that runs in the background ignores Ctrl-C, and so would all processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

for name in [name for name in os.environ if name.startswith(("WANDB_", "FINETUNE_"))]:
    del os.environ[name]

# Each of xdist's processes would start a thread a core, and they would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
