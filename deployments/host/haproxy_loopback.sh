#!/bin/sh
# Stands in front of HAProxy and mends its configuration, for which Serve has no settings: statistics, metrics and the admin socket
# are for this machine only, and a client may not switch off the server's timeout or its notice of clients that left.
# Serve calls: haproxy -db -f CONFIG ...; the configuration is written anew before each call.
set -eu
sed -i \
  -e 's/^\( *bind \)\*:\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/^\( *bind \):\([0-9]\)/\1127.0.0.1:\2/' \
  -e 's/\(stats socket .*\)mode 666/\1mode 600/' \
  -e '/^frontend http_frontend/a\    http-request del-header x-request-timeout-seconds' \
  -e '/^frontend http_frontend/a\    http-request del-header x-request-disconnect-disabled' \
  "$3"
exec "$AXON_HAPROXY_BINARY" "$@"
