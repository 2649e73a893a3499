# Prints the targets of a Makefile: "name: ## text", under headings "##@ Heading". Long texts go on below themselves.
BEGIN { FS = ":.*## "; WIDTH = 100; print "make TARGET [VARIABLE=value …]" }
/^##@ / { print "\n" substr($0, 5) }
/^[a-z0-9-]+:.*## / {
  line = sprintf("  %-22s", $1)
  count = split($2, words, " ")
  for (i = 1; i <= count; i++) {
    if (length(line) + length(words[i]) >= WIDTH) {
      print line
      line = sprintf("  %-22s", "")
    }
    line = line " " words[i]
  }
  print line
}
