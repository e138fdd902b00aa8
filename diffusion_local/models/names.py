"""How the hub calls its repositories."""

import re

#: https://huggingface.co/docs/hub/repositories-getting-started: owner/name, of 96 characters each.
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
