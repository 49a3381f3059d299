# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A daemon's API that says what a test wants it to: for what the real one does seldom (failed jobs, restarts,
# broken streams) and for what exactly is asked of it. Source after common.sh.
#
#   fake_api ROOT                       serves ROOT/run/blockmigd.sock; sets FAKE_PID
#   answer "METHOD /path" STATUS BODY   what that request gets from now on (else 404 without a word)
#   answer_script "METHOD /path" SCRIPT bash that prints a body piece by piece, for streams
#   requests                            prints "METHOD /path BODY" of each request so far, and forgets them

FAKE=$T/fake
mkdir -p "$FAKE/answers"

cat >"$FAKE/serve" <<'SERVE'
#!/bin/bash
cd "$(dirname "$0")"
read -r method path _
length=0
while read -r line; do
    line=${line%$'\r'}
    [ -n "$line" ] || break
    case ${line,,} in content-length:*) length=$((${line#*:})) ;; esac
done
body=$(head -c "$length")
echo "$method $path $body" >>requests
file=answers/$(printf '%s %s' "$method" "$path" | sha256sum | cut -c1-40)
if [ -e "$file.script" ]; then
    printf 'HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n'
    exec bash "$file.script"
fi
status=404 body=
[ ! -e "$file" ] || { read -r status && body=$(cat); } <"$file"
printf 'HTTP/1.1 %s X\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' "$status" "${#body}" "$body"
SERVE
chmod +x "$FAKE/serve"

fake_file() {
    echo "$FAKE/answers/$(printf '%s' "$1" | sha256sum | cut -c1-40)"
}

fake_api() {
    mkdir -p "$1/run"
    rm -f "$1/run/blockmigd.sock"
    start fake_api socat "UNIX-LISTEN:$1/run/blockmigd.sock,fork" "EXEC:$FAKE/serve"
    FAKE_PID=$PID
    wait_for "$1/run/blockmigd.sock"
}

answer() {
    local file
    file=$(fake_file "$1")
    rm -f "$file.script"
    printf '%s\n%s' "$2" "$3" >"$file"
}

answer_script() {
    printf '%s\n' "$2" >"$(fake_file "$1").script"
}

requests() {
    cat "$FAKE/requests" 2>/dev/null || true
    rm -f "$FAKE/requests"
}
