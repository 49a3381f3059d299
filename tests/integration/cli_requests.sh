#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# What each verb asks of the daemon, word for word, and what it makes of each kind of answer: against an API
# whose answers the test chooses.
set -eu
. "$(dirname "$0")/../lib/common.sh"
requires socat jq timeout
. tests/lib/fake_api.sh

B=$BIN/blockmig
export BLOCKMIG_ROOT=$T/r
fake_api "$T/r"

# run EXIT WORDS...: blockmig WORDS; output to $T/out and $T/err
run() {
    local want=$1 status=0
    shift
    timeout 60 "$B" "$@" >"$T/out" 2>"$T/err" </dev/null || status=$?
    [ "$status" = "$want" ] || fail "'$*' exited with $status, not $want: $(cat "$T/out" "$T/err")"
}

# asked "METHOD /path" [JSON]: the only request made since, with a body equal to JSON
asked() {
    local got method path body
    got=$(requests)
    [ "$(wc -l <<<"$got")" = 1 ] || fail "not one request but: $got"
    read -r method path body <<<"$got"
    [ "$method $path" = "$1" ] || fail "asked '$method $path', not '$1'"
    [ $# = 1 ] || [ "$(jq -cS . <<<"$body")" = "$(jq -cS . <<<"$2")" ] || fail "'$1' with $body, not $2"
}

printed() {
    [ "$(cat "$T/out")" = "$1" ] || fail "printed '$(cat "$T/out")', not '$1'"
}

is_json() {
    jq -es "length == 1 and (.[0] | $1)" "$T/out" >/dev/null || fail "not '$1': $(cat "$T/out")"
}

job() { # job ID STATE [MORE JSON MEMBERS]
    echo "{\"id\":$1,\"kind\":\"move\",\"volume\":\"v\",\"state\":\"$2\",\"phase\":\"copying\",\"source\":\"a:v.raw\",\"target\":\"b:v.raw\",\"percent\":50,\"bytes_copied\":4294967296,\"bytes_skipped\":0,\"bytes_mirrored\":1048576,\"bytes_recopied\":0,\"guest_p99_us_before\":900,\"guest_p99_us\":1200,\"guest_max_us\":5000,\"switch_hold_us\":40,\"verified\":true,\"switched\":true,\"started\":\"2026-01-31T12:00:00.500Z\",\"finished\":\"2026-01-31T12:01:02.000Z\",\"error\":null${3:-}}"
}

event() {
    echo "{\"id\":1,\"event\":\"job\",\"job\":$(job "$@")}"
}

# ---- repositories
answer "POST /v1/repos" 201 '{"name":"r1"}'
run 0 repo add r1 nfs://h/e --max-jobs 2
asked "POST /v1/repos" '{"name":"r1","uri":"nfs://h/e","max_jobs":2}'
run 0 repo add r1 folder --secret-file s --json
asked "POST /v1/repos" "{\"name\":\"r1\",\"uri\":\"$PWD/folder\",\"secret_file\":\"$PWD/s\"}"
is_json '.name == "r1"'
answer "GET /v1/repos" 200 '[{"name":"r1","uri":"nfs://h/e","max_jobs":2},{"name":"longer","uri":"file:///x"}]'
run 0 repo list
printed "NAME    URI        MAX JOBS
r1      nfs://h/e         2
longer  file:///x         -"
run 0 repo list --json
is_json 'length == 2'
requests >/dev/null
answer "GET /v1/repos/r1" 200 '{"name":"r1","uri":"nfs://h/e"}'
run 0 repo show r1
asked "GET /v1/repos/r1"
contains "$T/out" '^uri +nfs://h/e'
answer "DELETE /v1/repos/r1" 200 '{"removed":"r1"}'
run 0 repo remove r1 --json
asked "DELETE /v1/repos/r1"
is_json '.removed == "r1"'
run 6 repo show '../a b/%2f'
asked "GET /v1/repos/..%2Fa%20b%2F%252f"
answer "GET /v1/repos" 200 '[]'
run 0 repo list
printed ""
contains "$T/err" "no repositories"
requests >/dev/null

# ---- volumes
answer "POST /v1/volumes" 201 '{"name":"v"}'
run 0 volume create v --repo r1 --size 10G
asked "POST /v1/volumes" '{"name":"v","repo":"r1","size_bytes":10737418240,"format":"raw"}'
answer "POST /v1/volumes/import" 201 '{"name":"v"}'
run 0 volume import v x.raw --format raw
asked "POST /v1/volumes/import" "{\"name\":\"v\",\"uri\":\"$PWD/x.raw\",\"format\":\"raw\"}"
answer "POST /v1/volumes/v/start" 200 '{"uri":"nbd+unix:///v?socket=/run/v.sock","listen":["nbd+unix:///v?socket=/run/v.sock"]}'
run 0 volume start v
printed "nbd+unix:///v?socket=/run/v.sock"
asked "POST /v1/volumes/v/start" '{}'
run 0 volume start v --print xml --listen nbd://127.0.0.1:0/v
contains "$T/out" "<host transport='unix' socket='/run/v.sock'/>"
asked "POST /v1/volumes/v/start" '{"listen":["nbd://127.0.0.1:0/v"]}'
run 0 volume start v --print xml --json
is_json '.xml | startswith("<disk")'
requests >/dev/null
answer "POST /v1/volumes/v/stop" 200 '{}'
run 0 volume stop v
asked "POST /v1/volumes/v/stop" '{"force":false}'
run 0 volume stop v --force
asked "POST /v1/volumes/v/stop" '{"force":true}'
answer "POST /v1/volumes/v/stop" 409 '{"error":{"kind":"denied","code":16,"message":"volume v: 1 client is connected"}}'
run 7 volume stop v
contains "$T/err" '^blockmig: volume v: 1 client is connected$'
answer "GET /v1/volumes" 200 '[{"name":"v","repo":"r1","image":"v.raw","state":"started","format":"raw","size_bytes":10737418240,"clients":1,"job":3},{"name":"w","uri":"file:///w","state":"stopped","format":"raw","size_bytes":512,"clients":0,"job":null}]'
run 0 volume list
printed "NAME  STATE         SIZE  REPO  IMAGE      FORMAT  JOB
v     started   10.0 GiB  r1    v.raw      raw       3
w     stopped  512 bytes  -     file:///w  raw       -"
answer "GET /v1/volumes/v" 200 '{"name":"v","size_bytes":10737418240,"guest":{"reads":7}}'
run 0 volume show v
contains "$T/out" '^size_bytes +10737418240 \(10.0 GiB\)$'
contains "$T/out" '^guest.reads +7$'
answer "DELETE /v1/volumes/v" 200 '{}'
requests >/dev/null
run 0 volume delete v
asked "DELETE /v1/volumes/v"

# ---- move
answer "POST /v1/moves" 201 "$(job 7 queued)"
run 0 move v r2 --detach
printed 7
asked "POST /v1/moves" '{"volumes":["v"],"destination":"r2","verify":true,"hold":false,"keep_source":false,"dry_run":false}'
run 0 move v ./x.raw --detach --json --format raw --bandwidth 200MiB/s --max-latency 5ms --no-verify --hold --undo-window 10m --keep-source
is_json '.id == 7'
[ ! -s "$T/err" ] || fail "a note beside the JSON: $(cat "$T/err")"
asked "POST /v1/moves" "{\"volumes\":[\"v\"],\"destination\":\"$PWD/./x.raw\",\"format\":\"raw\",\"bandwidth_bytes_per_s\":209715200,\"max_latency_us\":5000,\"verify\":false,\"hold\":true,\"undo_window_ms\":600000,\"keep_source\":true,\"dry_run\":false}"
answer "POST /v1/moves" 200 '{"volume":"v","ok":true,"problems":[],"target":"r2:v.raw"}'
run 0 move v r2 --dry-run
contains "$T/out" '^target +r2:v.raw$'
answer "POST /v1/moves" 200 '{"volume":"v","ok":false,"problems":["no room","no sense"],"target":"r2:v.raw"}'
run 3 move v r2 --dry-run
contains "$T/err" "refused: no room; no sense"
run 3 move v r2 --dry-run --json
is_json '.problems | length == 2'
answer "POST /v1/moves" 422 '{"error":{"kind":"refused","code":28,"message":"r2: no room"}}'
run 3 move v r2
contains "$T/err" "r2: no room"
run 3 move v r2 --json
jq -e '.error | .kind == "refused" and .code == 28' "$T/err" >/dev/null || fail "$(cat "$T/err")"

# ---- a job to its end
answer "POST /v1/moves" 201 "$(job 7 queued)"
answer "GET /v1/jobs/7" 200 "$(job 7 running)"
answer_script "GET /v1/events?job=7" "cat <<'E'
$(event 7 running)
{\"event\":\"volume\"}
$(event 8 failed)
not JSON
$(event 7 synced)
$(event 7 done)
E"
run 0 move v r2
contains "$T/err" "^job 7 moves volume 'v'"
contains "$T/err" "^job 7: copying  50.0%"
contains "$T/err" "^job 7: synced"
contains "$T/out" "^job 7 done in 61.5 s: a:v.raw -> b:v.raw"
contains "$T/out" "copied +4.0 GiB"
contains "$T/out" "verified +both replicas equal"
contains "$T/out" "pause at the switch +40 us"
run 0 move v r2 --json
is_json '.state == "done"'
[ ! -s "$T/err" ] || fail "progress beside the JSON: $(cat "$T/err")"
run 0 watch 7
run 0 watch 7 --json
jq -es 'map(.state) == ["running", "synced", "done"]' "$T/out" >/dev/null || fail "$(cat "$T/out")"
run 0 wait 7
printed ""
[ ! -s "$T/err" ] || fail "wait is not quiet"

for end in failed:1 cancelled:4; do
    answer_script "GET /v1/events?job=7" "echo '$(event 7 ${end%:*} ',"error":{"kind":"failed","code":5,"message":"the disk is gone"}' | sed 's/"error":null,//')'"
    run ${end#*:} move v r2
    contains "$T/err" "the disk is gone"
    run ${end#*:} wait 7 --json
    is_json ".state == \"${end%:*}\""
    jq -e '.error.message | contains("the disk is gone")' "$T/err" >/dev/null || fail "$(cat "$T/err")"
done

# ---- what there is to do is said once
answer_script "GET /v1/events?job=7" "cat <<'E'
$(event 7 paused ',"options":{"hold":true},"error":{"kind":"failed","code":28,"message":"no room at b"}' | sed 's/"error":null,//')
$(event 7 synced ',"options":{"hold":true}')
$(event 7 synced ',"options":{"hold":true},"eta_s":1')
$(event 7 undo-window)
$(event 7 done)
E"
run 0 watch 7
contains "$T/err" "^job 7 is paused: no room at b"
[ "$(grep -c "held: 'blockmig switch 7'" "$T/err")" = 1 ] || fail "not said once: $(cat "$T/err")"
contains "$T/err" "'blockmig rollback 7' goes back, 'blockmig commit 7'"

# ---- a job that has ended before anybody listens, and a stream that says nothing of its end
answer "GET /v1/jobs/9" 200 "$(job 9 done)"
run 0 wait 9
run 0 watch 9
answer_script "GET /v1/events?job=7" "echo '$(event 7 running)'; printf '200\\n%s' '$(job 7 done)' >'$(fake_file "GET /v1/jobs/7")'"
run 0 wait 7

# ---- waiting has an end
answer "GET /v1/jobs/7" 200 "$(job 7 running)"
answer_script "GET /v1/events?job=7" "echo '$(event 7 running)'; sleep 30"
run 8 wait 7 --timeout 500ms
contains "$T/err" "job 7 goes on"
run 8 wait 7 --timeout 500ms --json
is_json '.state == "running"'

# ---- Ctrl-C detaches, and the job is left alone
requests >/dev/null
"$B" watch 7 >"$T/out" 2>"$T/err" &
pid=$!
wait_until 20 grep -q copying "$T/err"
kill -INT $pid
status=0
wait $pid || status=$?
[ $status = 8 ] || fail "detached with $status: $(cat "$T/err")"
contains "$T/err" "detached: job 7 goes on; 'blockmig watch 7'"
requests | grep -Eq 'POST|DELETE' && fail "the job was touched" || true

# ---- the daemon is restarted meanwhile
requests >/dev/null
"$B" wait 7 >"$T/out" 2>"$T/err" &
pid=$!
wait_until 20 grep -q events "$FAKE/requests"
old=$FAKE_PID
connections=$(ps -o pid= --ppid "$old")
stop "$old"
for connection in $connections; do stop "$connection"; done
rm -f "$T/r/run/blockmigd.sock"
answer "GET /v1/jobs/7" 200 "$(job 7 done)"
fake_api "$T/r"
status=0
timeout 40 tail --pid=$pid -f /dev/null || fail "wait did not come back after the restart"
wait $pid || status=$?
[ $status = 0 ] || fail "wait ended with $status over a restart: $(cat "$T/err")"

# ---- jobs
answer "GET /v1/jobs" 200 "[$(job 7 running ',"rate_bytes_per_s":1048576,"eta_s":61'),$(job 6 done)]"
run 0 jobs
contains "$T/out" '^ +7 +running +copying +v +a:v.raw +b:v.raw +50.0% +1.0 MiB/s +61s$'
contains "$T/out" '^ +6 +done +- '
run 0 jobs --json
is_json 'type == "array" and length == 2'
answer "GET /v1/jobs/7" 200 "$(job 7 running)"
run 0 job 7 --json
is_json '.id == 7'
run 0 job 7
contains "$T/out" '^state +running'
requests >/dev/null
for verb in pause resume cancel switch rollback commit; do
    answer "POST /v1/jobs/7/$verb" 200 "$(job 7 running)"
    run 0 $verb 7
    asked "POST /v1/jobs/7/$verb" '{}'
done
answer "POST /v1/jobs/7/commit" 409 '{"error":{"kind":"refused","code":22,"message":"job 7 is running: nothing to commit"}}'
run 3 commit 7
requests >/dev/null
answer "PATCH /v1/jobs/7" 200 "$(job 7 running)"
run 0 set 7 --bandwidth 0
asked "PATCH /v1/jobs/7" '{"bandwidth_bytes_per_s":0}'
run 0 set 7 --max-latency 2ms --bandwidth 1GiB/s
asked "PATCH /v1/jobs/7" '{"bandwidth_bytes_per_s":1073741824,"max_latency_us":2000}'

# ---- recover, cleanup
for verb in recover cleanup; do
    answer "POST /v1/$verb" 200 '{"actions":["removed x","y"]}'
    run 0 $verb
    printed "removed x
y"
    run 0 $verb --json
    is_json '.actions | length == 2'
    answer "POST /v1/$verb" 200 '{"actions":[]}'
    run 0 $verb
    contains "$T/err" "nothing to do"
done

# ---- REPO:IMAGE
head -c 65536 /dev/urandom >"$T/a.raw"
answer "GET /v1/resolve?image=r1%3Aa.raw" 200 "{\"uri\":\"file://$T/a.raw\",\"format\":\"raw\"}"
answer "GET /v1/resolve?image=r1%3Ab.raw" 200 "{\"uri\":\"file://$T/b.raw\",\"format\":\"raw\"}"
run 0 copy r1:a.raw r1:b.raw
cmp "$T/a.raw" "$T/b.raw"
answer "GET /v1/resolve?image=no%3Aa.raw" 404 '{"error":{"kind":"not-found","code":2,"message":"there is no repository no"}}'
run 6 copy no:a.raw x.raw

# ---- completion: words from the program, names from the daemon, files from the shell
answer "GET /v1/repos" 200 '[{"name":"r1","uri":"nfs://h/e"},{"name":"longer","uri":"file:///x"}]'
. packaging/blockmig.bash
complete_line() { # WANT WORDS...: the last word's candidates
    local want=$1
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    (PATH=$BIN:$PATH && _blockmig && echo "${COMPREPLY[*]}") >"$T/out"
    printed "$want"
}
complete_line "volume" blockmig vo
complete_line "start stop show" blockmig volume s
complete_line "v w" blockmig volume show ""
complete_line "" blockmig volume create ""
complete_line "longer" blockmig volume create x --repo l
complete_line "--bandwidth" blockmig move v r --ban
complete_line "Makefile" blockmig --json copy --bandwidth 5MiB/s x Makef
complete_line "raw" blockmig copy --format ""

# ---- answers that are none
answer "GET /v1/jobs" 200 'hello'
run 1 jobs
contains "$T/err" "no JSON"
answer "GET /v1/jobs" 500 '<html>'
run 1 jobs
contains "$T/err" "answered 500"
answer "GET /v1/jobs" 404 ''
run 6 jobs
http_proxy=http://127.0.0.1:1 run 6 jobs

echo "all verbs ask what they should"
