#!/bin/sh
# Starts HAProxy in Serve's place, with a stricter configuration than Serve has settings for: statistics, metrics and the
# admin socket are reachable from this machine only, and a client cannot disable the server's timeout or its detection of
# clients that disconnect. Serve runs: haproxy -db -f CONFIG ...; it writes CONFIG anew before each run.
set -eu
sed -i \
  -e 's/^\( *bind \)\*:\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/^\( *bind \):\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/\(stats socket .*\)mode 666/\1mode 600/' \
  -e '/^frontend http_frontend/a\    http-request del-header x-request-timeout-seconds' \
  -e '/^frontend http_frontend/a\    http-request del-header x-request-disconnect-disabled' \
  "$3"
exec "$AXON_HAPROXY_BINARY" "$@"
