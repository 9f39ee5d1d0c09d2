/* The verbs of the program: `graft VERB ...`. argv holds the words behind the verb, argc of them; each verb reports its
 * own error and returns the exit code. */
#ifndef GRAFT_CLI_VERBS_H
#define GRAFT_CLI_VERBS_H

int verb_plot(int argc, char **argv);

#endif
