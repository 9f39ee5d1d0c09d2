/* A file of its own for a test. Any failure fails the test. */
#ifndef GRAFT_TESTS_SUPPORT_SCRATCH_H
#define GRAFT_TESTS_SUPPORT_SCRATCH_H

/* Write text into a fresh file; its name is lent until the next call. */
const char *scratch_file(const char *text);
void scratch_remove(void); /* the last one */

#endif
