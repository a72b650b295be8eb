#!/bin/sh
# Starts HAProxy in Serve's place, with a stricter configuration than Serve has settings for: statistics, metrics and the
# admin socket are reachable from this machine only, and frontend and backends have the limits of
# haproxy_frontend.cfg and haproxy_backend.cfg.
# Serve runs: haproxy -db -f CONFIG ...; it writes CONFIG anew before each run.
set -eu
export AXON_REQUEST_WITHIN="${AXON_REQUEST_WITHIN:-10s}"
export AXON_CONNECTIONS_PER_ADDRESS="${AXON_CONNECTIONS_PER_ADDRESS:-1024}"
export AXON_CLIENT_IDLE="${AXON_CLIENT_IDLE:-60s}"
export AXON_KEYLESS_IN_10S="${AXON_KEYLESS_IN_10S:-4000000000}" # no limit, unless `axon serve` requires keys
export AXON_REQUESTS_PER_REPLICA="${AXON_REQUESTS_PER_REPLICA:-128}"
export AXON_QUEUE_WITHIN="${AXON_QUEUE_WITHIN:-50ms}"
export AXON_QUEUE_LENGTH="${AXON_QUEUE_LENGTH:-64}"
if ! grep -q '^frontend http_frontend' "$3"; then
  echo "axon: no 'frontend http_frontend' in $3: its limits cannot be set" >&2
  exit 1
fi
sed -i \
  -e 's/^\( *bind \)\*:\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/^\( *bind \):\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/\(stats socket .*\)mode 666/\1mode 600/' \
  -e "/^frontend http_frontend/r $(dirname "$0")/haproxy_frontend.cfg" \
  -e "/^backend default/b" -e "/^backend .*grpc/b" -e "/^backend /r $(dirname "$0")/haproxy_backend.cfg" \
  -e "s/^\( *server [^ ]* [^ ]* check\)/\1 maxconn $AXON_REQUESTS_PER_REPLICA/" \
  "$3"
exec "$AXON_HAPROXY_BINARY" "$@"
