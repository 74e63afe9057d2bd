# bash completion of dotmax: commands and flags as --help names them, files otherwise.
_dotmax() {
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-}
  # A word with "=" is three words to bash; of its value, files are the best guess.
  if [[ ${COMP_WORDS[COMP_CWORD - 1]} == = || $word == = ]]; then
    COMPREPLY=($(compgen -f -- "${word#=}"))
  elif [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" --help | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" "$command" --help | sed -n 's/^  \(--[a-z-]*=\{0,1\}\).*/\1/p')" -- "$word"))
    [[ ${COMPREPLY-} == *= ]] && compopt -o nospace
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _dotmax dotmax
