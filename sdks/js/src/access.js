/** Access lists of records: entries in JSON form, such as `{public: true, level: 'read'}`. */

/** Returns a list with another level for somebody; null removes their entry. */
export function withLevel(entries, whom, level) {
  const [[name, value]] = Object.entries(whom);
  const others = (entries ?? []).filter((entry) => entry[name] !== value);
  return level === null ? others : [...others, { ...whom, level }];
}
