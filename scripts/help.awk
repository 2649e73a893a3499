# Prints the targets of a Makefile: "name: ## text", under headings "##@ Heading".
BEGIN { FS = ":.*## "; print "make TARGET [VARIABLE=value …]" }
/^##@ / { print "\n" substr($0, 5) }
/^[a-z0-9-]+:.*## / { printf "  %-22s %s\n", $1, $2 }
