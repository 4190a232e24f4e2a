#!/usr/bin/env bash
# Sets up what the tests need, checks formatting and lints, and runs all tests:
#
#   tests/run.sh             everything
#   tests/run.sh --setup     the set-up only
#   tests/run.sh NAME …      the set-up, and only the tests whose names contain NAME
#
# Needs Rust, and on Debian the right to install packages if node, python, or chromium are missing.
# Whatever else it fetches goes into tests/node/node_modules and .venv. The last line says how many
# tests passed, failed, and found that this machine has not got what they need (such as the right to
# mount a file system); what failed is shown once more before it. The exit code is 0 only if none
# failed.
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
    # Debian starts a directory of its own when this one is installed; the tests need the program.
    [ -x /usr/sbin/slapd ] && command -v ldapmodify >/dev/null || missing+=(slapd ldap-utils)
    # Reads docker-compose.yml; no container is ever started.
    command -v docker-compose >/dev/null && /usr/bin/python3 -c 'import yaml' 2>/dev/null ||
        missing+=(docker-compose)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v mkfs.ext4 >/dev/null || [ -x /sbin/mkfs.ext4 ] || missing+=(e2fsprogs)
    # Likewise; the tests start servers of their own with the programs.
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

# The published v1 client, exactly as the lock file has it.
install_node_packages() {
    local stamp=tests/node/node_modules/.package-lock.json
    [ "$stamp" -nt tests/node/package-lock.json ] && return
    say "installing npm packages"
    npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error
    touch "$stamp"
}

# What the JavaScript SDK's own tests need.
install_js_sdk() {
    local stamp=sdks/js/node_modules/.package-lock.json
    [ "$stamp" -nt sdks/js/package-lock.json ] && return
    say "installing npm packages of sdks/js"
    npm ci --prefix sdks/js --ignore-scripts --no-audit --no-fund --loglevel=error
    touch "$stamp"
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

# A service that speaks S3's protocol; it wants other versions than the published SDK does.
install_s3() {
    local wanted=tests/python/s3.txt stamp=.venv-s3/.installed
    [ "$stamp" -nt "$wanted" ] && return
    say "installing a service that speaks the protocol of S3"
    python3 -m venv .venv-s3
    .venv-s3/bin/pip install --quiet --disable-pip-version-check -r "$wanted"
    touch "$stamp"
}

# Tests wait for servers, databases and browsers more than they compute.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}"

passed=0
failed=0
skipped=0
# What failing tests said.
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT

# Runs a check that either passes or fails as a whole.
check() {
    say "$*"
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# Runs the tests and adds up what each of their programs says.
run_tests() {
    local log running status=0 ok bad none
    log=$(mktemp)
    say "cargo test --workspace $*"
    # Into a file, which is shown as it grows: some programs that tests start make a pipe that they
    # inherit one that does not wait, and what the tests then say is cut off.
    cargo test --workspace --no-fail-fast -- "$@" >"$log" 2>&1 &
    running=$!
    tail -n +1 -f --pid="$running" "$log" &
    wait "$running" || status=$?
    wait
    sum() {
        sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'
    }
    ok=$(sum passed)
    bad=$(sum failed)
    # A test that could not run here says so and ends; it has not passed.
    none=$(grep -c 'skipped: ' "$log" || true)
    sed -n '/^---- .* stdout ----$/,/^test result: /p' "$log" >>"$failures"
    ok=$((ok - none))
    skipped=$((skipped + none))
    rm -f "$log"
    # Something that did not even build has failed, too.
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + ok))
    failed=$((failed + bad))
}

# Runs the JavaScript SDK's tests, and adds up what node says.
test_js_sdk() {
    local log
    log=$(mktemp)
    say "node --test sdks/js"
    (cd sdks/js && node --test --test-reporter=tap test/*.test.js) >"$log" 2>&1 || true
    grep -A 20 '^not ok' "$log" >>"$failures" || true
    # A run that did not come to its end says nothing, and has failed.
    tap() { sed -n "s/^# $1 //p" "$log" | grep . || echo "$2"; }
    passed=$((passed + $(tap pass 0)))
    failed=$((failed + $(tap fail 1)))
    skipped=$((skipped + $(tap skipped 0)))
    rm -f "$log"
}

install_packages
install_node_packages
install_js_sdk
install_python_packages
install_s3
[ "${1:-}" = --setup ] && exit

if [ $# -eq 0 ]; then
    check cargo fmt --all --check
    check cargo clippy --workspace --all-targets --quiet -- -D warnings
    test_js_sdk
fi
run_tests "$@"
cat "$failures"
printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
