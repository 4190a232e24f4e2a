#!/usr/bin/env bash
# Sets up what the tests need, checks formatting, lints and links in comments, and runs all tests:
#
#   tests/run.sh             everything
#   tests/run.sh --setup     the set-up only
#   tests/run.sh NAME …      the set-up, and only the tests whose names contain NAME
#
# Needs Rust, and on Debian permission to install packages if any are missing (node, python,
# chromium and others). Everything else is installed into the node_modules of tests/node, sdks/js and
# sdks/live, .venv and .venv-s3. The last line gives the number of tests that passed, failed, and were
# skipped because this machine lacks something (such as permission to mount a file system). The output
# of failed tests is repeated before it. The exit code is 0 only if none failed.
# Tests that have not ended after SKYTRAIL_TEST_MINUTES (by default 60, builds included) have failed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }

install_packages() {
    local missing=()
    command -v node >/dev/null && command -v npm >/dev/null || missing+=(nodejs npm)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    command -v cc >/dev/null && command -v make >/dev/null || missing+=(build-essential)
    command -v curl >/dev/null || missing+=(curl)
    command -v strace >/dev/null || missing+=(strace)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v chromium >/dev/null || missing+=(chromium)
    # Debian starts a directory service on installation; the tests only need the program.
    [ -x /usr/sbin/slapd ] && command -v ldapmodify >/dev/null || missing+=(slapd ldap-utils)
    # Only reads docker-compose.yml; no container is ever started.
    command -v docker-compose >/dev/null && /usr/bin/python3 -c 'import yaml' 2>/dev/null ||
        missing+=(docker-compose)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v mkfs.ext4 >/dev/null || [ -x /sbin/mkfs.ext4 ] || missing+=(e2fsprogs)
    # Debian starts a server here, too; the tests start their own with its programs.
    [ -x /usr/lib/postgresql/15/bin/initdb ] || missing+=(postgresql-15)
    ls /usr/share/postgresql/15/extension/postgis.control >/dev/null 2>&1 ||
        missing+=(postgresql-15-postgis-3)
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing+=(faketime)
    [ ${#missing[@]} -eq 0 ] && return
    if ! command -v apt-get >/dev/null; then
        say "please install: ${missing[*]}"
        exit 2
    fi
    say "installing Debian packages: ${missing[*]}"
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get -qq update
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get -qq install -y --no-install-recommends \
        "${missing[@]}"
}

# The published v1 client, in exactly the version of the lock file.
install_node_packages() {
    local stamp=tests/node/node_modules/.package-lock.json
    [ "$stamp" -nt tests/node/package-lock.json ] && return
    say "installing npm packages"
    npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error
    touch "$stamp"
}

# The dependencies of the JavaScript packages and of their own tests.
install_js_sdks() {
    local sdk stamp
    for sdk in sdks/js sdks/live; do
        stamp=$sdk/node_modules/.package-lock.json
        [ "$stamp" -nt "$sdk/package-lock.json" ] && continue
        say "installing npm packages of $sdk"
        npm ci --prefix "$sdk" --ignore-scripts --no-audit --no-fund --loglevel=error
        touch "$stamp"
    done
}

install_python_packages() {
    local wanted=tests/python/requirements.txt bare=tests/python/no-deps.txt
    local stamp=.venv/.installed
    [ "$stamp" -nt "$wanted" ] && [ "$stamp" -nt "$bare" ] && return
    say "installing python packages"
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r "$wanted"
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r "$bare"
    touch "$stamp"
}

# A service that speaks the S3 protocol; it needs other versions than the published SDK.
install_s3() {
    local wanted=tests/python/s3.txt stamp=.venv-s3/.installed
    [ "$stamp" -nt "$wanted" ] && return
    say "installing a service that speaks the protocol of S3"
    python3 -m venv .venv-s3
    .venv-s3/bin/pip install --quiet --disable-pip-version-check -r "$wanted"
    touch "$stamp"
}

# A first build, as on a machine that is there for one run, only loses time by preparing the next.
[ -d target ] || export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"

# Tests mostly wait for servers, databases and browsers.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}"

passed=0
failed=0
skipped=0
# The output of failed tests.
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT

# Runs a check that either passes or fails as a whole.
check() {
    say "$*"
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# After so long, a test waits for something that never comes.
patience=${SKYTRAIL_TEST_MINUTES:-60}

# Ends the test program that cargo runs if it takes too long, and reports which of its tests have not
# ended and what they have started. Cargo goes on with the next program.
end_if_stuck() {
    local cargo=$1 log=$2 name
    timeout "${patience}m" tail -f --pid="$cargo" /dev/null && return
    {
        printf 'ended after %s minutes, while these ran:\n' "$patience"
        sed -n 's/^test \(.*\) has been running for over 60 seconds$/\1/p' "$log" |
            while read -r name; do
                grep -qF "test $name ... " "$log" || printf 'test %s ... FAILED\n' "$name"
            done
        ps --forest -o pid,etimes,args -s "$(ps -o sid= -p "$cargo")" | cut -c 1-200
    } >>"$failures"
    pkill -TERM -P "$cargo"
}

# Runs the tests and adds up the results of their programs.
run_tests() {
    local log running status=0 ok bad none
    log=$(mktemp)
    say "cargo test --workspace $*"
    # Into a file, which is shown as it grows. Some programs that tests start set an inherited pipe
    # to non-blocking, which would cut off the output of the tests.
    cargo test --workspace --no-fail-fast -- "$@" >"$log" 2>&1 &
    running=$!
    tail -n +1 -f --pid="$running" "$log" &
    end_if_stuck "$running" "$log" &
    wait "$running" || status=$?
    wait
    sum() {
        sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'
    }
    ok=$(sum passed)
    bad=$(sum failed)
    # A test that cannot run here reports that and ends; it has not passed.
    none=$(grep -c 'skipped: ' "$log" || true)
    sed -n '/^---- .* stdout ----$/,/^test result: /p' "$log" >>"$failures"
    ok=$((ok - none))
    skipped=$((skipped + none))
    rm -f "$log"
    # A failed build counts as a failure, too.
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + ok))
    failed=$((failed + bad))
}

# Runs the tests of a JavaScript package, and adds up node's results.
test_js_sdk() {
    local sdk=$1 log
    log=$(mktemp)
    say "node --test $sdk"
    (cd "$sdk" && node --test --test-reporter=tap test/*.test.js) >"$log" 2>&1 || true
    grep -A 20 '^not ok' "$log" >>"$failures" || true
    # A run that was cut short reports nothing, and counts as failed.
    tap() { sed -n "s/^# $1 //p" "$log" | grep . || echo "$2"; }
    passed=$((passed + $(tap pass 0)))
    failed=$((failed + $(tap fail 1)))
    skipped=$((skipped + $(tap skipped 0)))
    rm -f "$log"
}

install_packages
install_node_packages
install_js_sdks
install_python_packages
install_s3
[ "${1:-}" = --setup ] && exit

if [ $# -eq 0 ]; then
    check cargo fmt --all --check
    check cargo clippy --workspace --all-targets --quiet -- -D warnings
    check env RUSTDOCFLAGS="-D warnings" \
        cargo doc --workspace --no-deps --document-private-items --quiet
    test_js_sdk sdks/js
    test_js_sdk sdks/live
fi
run_tests "$@"
cat "$failures"
printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
