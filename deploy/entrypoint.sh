#!/bin/sh
# Bring the kernels that came with the image to where more of them will be kept, then become the command.
set -eu
cp --archive --no-preserve=ownership --update=none /opt/dvi-cache/. /var/cache/dvi/ 2>/dev/null || :
exec "$@"
