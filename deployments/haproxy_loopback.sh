#!/bin/sh
# Stands in front of HAProxy: Serve's template lets its statistics, its metrics and its admin socket listen to everyone, and
# has no setting for it. Serve calls: haproxy -db -f CONFIG ...; the configuration is written anew before each call.
set -eu
sed -i \
  -e 's/^\( *bind \)\*:\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/^\( *bind \):\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/\(stats socket .*\)mode 666/\1mode 600/' \
  "$3"
exec "$AXON_HAPROXY_BINARY" "$@"
