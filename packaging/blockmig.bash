# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for blockmig: the program knows its verbs and options; names come from its daemon, files from bash.

_blockmig() {
    local cur=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} root=() i line IFS=$'\n'
    local -a found=()
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        [ "${COMP_WORDS[i]}" != --root ] || root=(--root "${COMP_WORDS[i + 1]}")
    done
    while read -r line; do
        case $line in
        '<VOLUME>') found+=($("$program" "${root[@]}" volume list 2>/dev/null | awk 'NR > 1 {print $1}')) ;;
        '<REPO>') found+=($("$program" "${root[@]}" repo list 2>/dev/null | awk 'NR > 1 {print $1}')) ;;
        '<JOB>') found+=($("$program" "${root[@]}" jobs 2>/dev/null | awk 'NR > 1 {print $1}')) ;;
        '<DEST>') found+=($("$program" "${root[@]}" repo list 2>/dev/null | awk 'NR > 1 {print $1}') $(compgen -f -- "$cur")) ;;
        '<FILE>') found+=($(compgen -f -- "$cur")) ;;
        '<'*) ;;
        *) found+=("$line") ;;
        esac
    done < <("$program" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [ ${#found[@]} = 0 ] || COMPREPLY=($(compgen -W "${found[*]}" -- "$cur"))
}
complete -o filenames -F _blockmig blockmig
