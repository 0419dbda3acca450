"""Online or offline: what W&B's client would ask, decided without asking."""

import contextlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from typing import Any, Literal

import wandb

PROJECT = "resnext-finetuning"
Mode = Literal["online", "offline", "disabled"]

# Of W&B's settings, overridden by their environment variables: what a dead server may cost, in seconds, and how much of an
# offline log a power cut may take.
SETTINGS = {"init_timeout": 30, "finish_timeout": 300, "x_transaction_log_flush_interval": 1}


def choose_mode() -> Mode:
    """`WANDB_MODE` when it is set; else online with credentials, and offline without. Never prompts."""
    given = os.environ.get("WANDB_MODE", "").strip().lower()
    if given in ("dryrun", "offline"):
        return "offline"
    if given == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "disabled"
    return "online" if logged_in() else "offline"


def client_settings() -> dict[str, Any]:
    """Ours, but for those that the environment sets. Its variables have two underscores for a setting that begins with x_."""
    settings = {k: v for k, v in SETTINGS.items() if f"WANDB_{k.upper().removeprefix('X')}" not in os.environ}
    # Its own lines repeat ours; `WANDB_SILENT=false` brings them back.
    return {**settings, "finish_timeout_raises": True, **({"silent": True} if "WANDB_SILENT" not in os.environ else {})}


def server_answers() -> bool:
    """Whether the W&B server is there. The client itself would try for 100 seconds before it says that it is not."""
    url = f"{wandb.setup().settings.base_url}/graphql"
    for wait in (0, 1, 2):
        time.sleep(wait)
        try:
            request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=10).close()
            return True
        except urllib.error.HTTPError as error:
            if error.code < 500:  # it wants more than an empty question
                return True
        except TimeoutError:
            return False
        except OSError as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLError):  # the client has certificates of its own
                return True
        except http.client.HTTPException:  # something else listens there
            pass
    return False


def logged_in() -> bool:
    """Whether there are credentials. Never prompts, asks no server."""
    with contextlib.suppress(Exception):  # credentials that are no credentials
        if "WANDB_SILENT" not in os.environ:  # else the user's name is asked for, to be printed
            wandb.setup(settings=wandb.Settings(silent=True))
        return wandb.login(prompt=False, verify=False)
    return False
