import { listOption, type OptionGroup, stringOption, usage } from '../../program/options.ts';
import { extensionKeyword } from '../../smtp/reply.ts';

/** What the options about routes are read as. */
export interface RouteSettings {
  /** The path of the file of routes. */
  readonly routesFile: string;
  /** In the greeting and in replies to EHLO; undefined for the name of this host. */
  readonly greetingName: string | undefined;
  /** What is offered in reply to EHLO, a line each. */
  readonly offers: readonly string[];
}

const DEFAULT_OFFERS = ['PIPELINING', '8BITMIME'];

/** These would be ours, or lead to commands that routing does not follow. */
const NOT_OFFERED: ReadonlySet<string> = new Set(['STARTTLS', 'AUTH', 'XCLIENT', 'XFORWARD']);

/** Routes, and what the client is offered before its route is known. Undefined without `--routes`. */
export const routeOptions: OptionGroup<RouteSettings | undefined> = {
  rows: [
    {
      name: 'routes',
      value: 'FILE',
      help: 'in place of a URL: lines of a pattern for an address, and a URL or |program',
    },
    {
      name: 'greeting',
      value: 'NAME',
      help: 'with --routes, the name in the greeting (that of this host)',
    },
    {
      name: 'offer',
      value: 'KEYWORD',
      multiple: true,
      help: 'with --routes, an extension to offer; repeatable (PIPELINING and 8BITMIME)',
    },
  ],
  read: (values) => {
    const routesFile = stringOption(values, 'routes');
    const greetingName = stringOption(values, 'greeting');
    const offers = listOption(values, 'offer').map(readOffer);
    if (routesFile !== undefined) {
      return { routesFile, greetingName, offers: offers.length === 0 ? DEFAULT_OFFERS : offers };
    }
    if (greetingName !== undefined || offers.length > 0) {
      throw usage('--greeting and --offer have no effect without --routes');
    }
    return undefined;
  },
};

/** RFC 5321 section 4.1.1.1: a keyword, and parameters of printable ASCII. */
function readOffer(offer: string): string {
  if (!/^[a-z\d][a-z\d-]*(?: [!-~]+)*$/i.test(offer)) {
    throw usage(`--offer takes a keyword of EHLO, such as "SIZE 10000000", not ${JSON.stringify(offer)}`);
  }
  if (NOT_OFFERED.has(extensionKeyword(offer))) throw usage(`--offer ${offer} is not possible`);
  return offer;
}
