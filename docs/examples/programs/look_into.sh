#!/bin/sh
# What is in a cache, from a shell: look_into.sh DIRECTORY
set -eu
export COGCACHE_TIERS="'$1'"
cogcache ls --sort size
cogcache ls --json
cogcache stats
cogcache rm --artifact transcript --older-than 30d --dry-run
cogcache doctor
