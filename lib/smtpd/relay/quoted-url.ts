/**
 * A URL in quotes, for a message. All before the last "@" is left out: it may be a user and a password, and the URL need
 * not be well-formed.
 */
export function quotedUrl(url: string): string {
  return JSON.stringify(url.replace(/^.*(?:@|%40)/is, '...@'));
}
