/* Stands in for a later version of the library. */
const char* evenflow_version(void);
const char* evenflow_version(void) {
  return "999.0.0";
}
