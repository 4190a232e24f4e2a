#!/bin/sh
# Creates the secrets that docker-compose.yml needs, in ./secrets, where they are missing.
#
# The folder is closed to other users; the files are not, because users inside the containers read them.
set -eu
umask 022
mkdir -p secrets
chmod 700 secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in api_key master_key postgres_password; do
    [ -s "secrets/$name" ] || random >"secrets/$name"
done
[ -s secrets/database_url ] ||
    printf 'postgres://skytrail:%s@database/skytrail' "$(cat secrets/postgres_password)" >secrets/database_url
