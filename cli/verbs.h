/* The verbs of the program. Each gets the words after its name and returns the exit code. */
#ifndef GRAFT_CLI_VERBS_H
#define GRAFT_CLI_VERBS_H

int verb_inspect(int argc, char **argv);

#endif
