"""The lowest ground: errors, strict readers, units, whole files, words of commands, pictures' common parts."""
