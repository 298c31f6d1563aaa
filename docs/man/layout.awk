# Lays out a man page of marked-man for a terminal of 80 columns: awk -v date=YYYY-MM-DD -f layout.awk PAGE
#
# marked-man gives all columns of a table the same width, so that long names are broken. Here a column is as wide as its
# longest cell, or else shares what is left, but is never narrower than its longest word. Text is neither hyphenated nor
# justified: options and file names remain whole.

BEGIN { LINE = 66 } # The width of a table: 80 columns without the indentation and the box.

/^\.TH / {
  split($0, part, "\"")
  printf ".TH \"%s\" \"%s\" \"%s\" \"%s\" \"%s\"\n.nh\n.ad l\n", part[2], part[4], date, part[8], part[10]
  next
}
/^\.TS$/ { inTable = 1; rows = 0; columns = 0; delete rule; next }
inTable && /^\.TE$/ { printTable(); inTable = 0; next }
inTable { readLine(); next }

# mandoc warns of an empty paragraph.
/^\.P$/ && afterHeading { next }
/^$/ && afterHeading { next }
/^\.SH / { $0 = toupper($0) }
{ afterHeading = /^\.S[HS] /; print }

# A row is T{, its cells with T}|T{ between them, and T}; a line of = or _ is a rule below it.
function readLine() {
  if (/^tab\(/ || /^[l ]+\.$/) return
  if (/^[=_]$/) rule[rows] = $0
  else if (/^T{$/) { rows++; column = 1; cell[rows, column] = "" }
  else if (/^T}\|T{$/) { column++; cell[rows, column] = "" }
  else if (/^T}$/) columns = column
  else cell[rows, column] = cell[rows, column] (cell[rows, column] == "" ? "" : " ") $0
}

function printTable(   row, col, text) {
  allot()
  print ".TS"
  print "nowarn box;"
  for (col = 1; col <= columns; col++) printf "lw(%dn)%s", width[col], col < columns ? " " : ".\n"
  for (row = 1; row <= rows; row++) {
    for (col = 1; col <= columns; col++) {
      text = cell[row, col]
      if (lengthOf(text) > width[col]) printf "T{\n%s\nT}", text
      else printf "%s%s", text ~ /^[.']/ ? "\\&" : "", text
      printf "%s", col < columns ? "\t" : "\n"
    }
    if (row in rule) print rule[row]
  }
  print ".TE\n.sp"
}

# Sets the width of each column.
function allot(   row, col, size, word, words, count, left, share, isSet, changed, rest) {
  for (col = 1; col <= columns; col++) {
    widest[col] = longest[col] = 0
    isSet[col] = 0
    for (row = 1; row <= rows; row++) {
      size = lengthOf(cell[row, col])
      if (size > widest[col]) widest[col] = size
      count = split(cell[row, col], words, " ")
      for (word = 1; word <= count; word++) {
        size = lengthOf(words[word])
        if (size > longest[col]) longest[col] = size
      }
    }
  }
  left = LINE - 3 * (columns - 1)
  rest = columns
  do {
    changed = 0
    share = rest > 0 ? int(left / rest) : 0
    for (col = 1; col <= columns && !changed; col++) {
      if (isSet[col] || (widest[col] > share && longest[col] <= share)) continue
      width[col] = widest[col] <= share ? widest[col] : longest[col]
      isSet[col] = changed = 1
      left -= width[col]
      rest--
    }
  } while (changed)
  for (col = 1; col <= columns; col++) if (!isSet[col]) width[col] = share
}

# How many columns of the terminal a text takes.
function lengthOf(text) {
  gsub(/\\f./, "", text)
  gsub(/\\[|&]/, "", text)
  gsub(/\\\([a-z][a-z]/, "x", text)
  gsub(/\\./, "x", text)
  return length(text)
}
