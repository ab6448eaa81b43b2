#!/bin/sh
# Starts the server of the container; `healthy` asks whether it answers. Other arguments go to `runyard serve`.
set -eu

host=${RUNYARD_SERVER__HOST:-0.0.0.0}
port=${RUNYARD_SERVER__PORT:-5000}

if [ "${1:-}" = healthy ]; then
    exec python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=4)' \
        "http://127.0.0.1:$port/livez"
fi

# Whoever reaches a port of a container could start processes in it: it never listens to others without accounts.
case $host in
127.* | localhost | ::1) ;;
*)
    case $(printf %s "${FLUX_REQUIRE_AUTH:-}" | tr '[:upper:]' '[:lower:]') in
    1 | true | yes | on) ;;
    *)
        echo "runyard: this address can be reached from elsewhere, so requests need credentials"
        export FLUX_REQUIRE_AUTH=true
        ;;
    esac
    # An account that was made by an earlier start keeps its password if none is given now.
    if [ -z "${FLUX_TOKEN:-}${FLUX_TOKEN_FILE:-}" ]; then
        kept=${RUNYARD_DATA_DIR:-/data}/token
        if [ ! -s "$kept" ]; then
            (umask 077 && python3 -c 'import secrets; print(secrets.token_urlsafe(24))' > "$kept")
            echo "runyard: no FLUX_TOKEN was given; user ${FLUX_USER:-fluxuser} has the token $(cat "$kept")"
        fi
        export FLUX_TOKEN_FILE="$kept"
    fi
    ;;
esac

exec runyard serve "$@"
