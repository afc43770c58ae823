#!/usr/bin/awk -f
# Makes the comments of varve.h ones that Doxygen reads: each as it stands, since its columns and lists mean something.

# At the end of a line of code: of what stands before it.
/[;,] +\/\* .*\*\/$/ {
    sub(/\/\* /, "/**< ")
    print
    next
}
/^\/\* ---- / {
    next
}
/^ *\/\*/ && !inside {
    inside = 1
    indent = $0
    sub(/\/\*.*/, "", indent)
    sub(/^ *\/\* ?/, "")
    print (NR == 1 ? indent "/** @file" : indent "/**") "\n@verbatim"
}
inside {
    over = sub(/ *\*\/$/, "")
    sub(/^ *\* ?/, "")
    sub(/^ +\*$/, "")
    if ($0 !~ /^ *$/ || !over)
        print
    if (over) {
        print "@endverbatim\n" indent "*/"
        inside = 0
    }
    next
}
{
    print
}
