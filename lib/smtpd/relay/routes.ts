import { EXIT, Failure } from '../../program/failure.ts';
import { unquoteLocal } from '../../smtp/path.ts';

/** Whose address a route is for. */
export type RouteOf = 'from' | 'to';

/** Where a route leads. */
export type RouteTarget =
  | { readonly type: 'url'; readonly url: string }
  /** An smtpd: a program, searched in PATH, and its arguments. */
  | { readonly type: 'program'; readonly command: readonly string[] };

/** One line of a file of routes. */
export interface Route {
  /** Its number, from 1. */
  readonly line: number;
  readonly of: RouteOf;
  /** As in the file. */
  readonly pattern: string;
  readonly target: RouteTarget;
}

/** The routes of a file. */
export interface Routes {
  readonly all: readonly Route[];
  /** Whether any of them is for recipients. */
  readonly hasRecipients: boolean;
  /**
   * The most specific route of an address, wherever it is in the file: that of the address itself, with the local part
   * in the same case or else in any; of its domain; of the nearest domain above; of all addresses.
   *
   * @param mailbox without angle brackets; '' for the null sender.
   */
  find(of: RouteOf, mailbox: string): Route | undefined;
}

const BLANK = /^\s*(?:#|$)/;
/** A quoted local part may contain spaces. */
const LINE = /^\s*(?:(from|to)\s+)?((?:"(?:[^"\\]|\\.)+")?\S+)\s+(\S.*?)\s*$/i;

/** A local part and a domain, either of which may be absent. "@*.example" has the domain "*.example". */
const PATTERN =
  /^(?:\*|<>|(?:"(?:[^"\\]|\\.)+"|[^@"\s<>]+)?@(?:\*\.)?(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[^\]]+\]))$/i;

/**
 * Parses a file of routes: one a line, a pattern and a URL, or a pattern and "|" and a program with its arguments,
 * separated by spaces. "from" or "to" before the pattern is whose address it is for, "from" by default. Lines that begin
 * with "#", and empty ones, are ignored.
 *
 * @param name the file, as messages name it.
 * @throws Failure (100) that names the file and the line.
 */
export function parseRoutes(text: string, name: string): Routes {
  const byKey = new Map<string, Route>();
  const anyCase = new Map<string, Route>();
  const all: Route[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (BLANK.test(line)) continue;
    const route = parseLine(line, index + 1, `${name}:${index + 1}`);
    const key = keyOf(route.of, route.pattern === '<>' ? '' : route.pattern);
    const earlier = byKey.get(key);
    if (earlier !== undefined) {
      throw malformed(`${name}:${route.line}: ${route.pattern} has a route already, in line ${earlier.line}`);
    }
    byKey.set(key, route);
    if (!anyCase.has(key.toLowerCase())) anyCase.set(key.toLowerCase(), route);
    all.push(route);
  }

  return {
    all,
    hasRecipients: all.some(({ of }) => of === 'to'),
    find: (of, mailbox) => {
      for (const key of keysFor(of, mailbox)) {
        const route = byKey.get(key) ?? anyCase.get(key.toLowerCase());
        if (route !== undefined) return route;
      }
      return undefined;
    },
  };
}

function parseLine(line: string, number: number, place: string): Route {
  const [, of = 'from', pattern = '', target = ''] = LINE.exec(line) ?? [];
  if (target === '') throw malformed(`${place}: expected a pattern, and a URL or |program`);
  if (!PATTERN.test(pattern)) {
    throw malformed(
      `${place}: expected user@domain, @domain, @*.domain, <> or *, not ${JSON.stringify(pattern)}`,
    );
  }
  const whose = of.toLowerCase() === 'to' ? 'to' : 'from';
  if (pattern === '<>' && whose === 'to') throw malformed(`${place}: <> is a sender only`);
  return { line: number, of: whose, pattern, target: parseTarget(target, place) };
}

function parseTarget(text: string, place: string): RouteTarget {
  if (!text.startsWith('|')) {
    if (/\s/.test(text)) throw malformed(`${place}: unexpected text after the URL`);
    return { type: 'url', url: text };
  }
  const command = text.slice(1).trim().split(/\s+/);
  if (command[0] === '') throw malformed(`${place}: expected a program after |`);
  return { type: 'program', command };
}

/** What a pattern or an address is found by: the domain in lower case, the local part without needless quotes. */
function keyOf(of: RouteOf, address: string): string {
  const at = address.lastIndexOf('@');
  if (at < 0) return `${of} ${address}`;
  return `${of} ${unquoteLocal(address.slice(0, at))}@${address.slice(at + 1).toLowerCase()}`;
}

/** The keys of the routes that an address may have, from the most specific to the least. */
function keysFor(of: RouteOf, mailbox: string): string[] {
  const at = mailbox.lastIndexOf('@');
  const keys = [keyOf(of, mailbox)];
  if (at >= 0) {
    const domain = mailbox.slice(at + 1);
    keys.push(keyOf(of, `@${domain}`));
    for (
      let dot = domain.indexOf('.');
      dot >= 0 && !domain.startsWith('[');
      dot = domain.indexOf('.', dot + 1)
    ) {
      keys.push(keyOf(of, `@*.${domain.slice(dot + 1)}`));
    }
  }
  return [...keys, `${of} *`];
}

function malformed(what: string): Failure {
  return new Failure(EXIT.wrongUsage, what);
}
