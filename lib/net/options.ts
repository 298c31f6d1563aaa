import { type OptionGroup, type OptionValues, stringOption } from '../program/options.ts';
import type { Networks } from './address.ts';

/** What the option of the PROXY protocol is read as. */
export interface ProxyProtocolSettings {
  /** The proxies, whose connections begin with a PROXY header; undefined for no PROXY header. */
  readonly proxies: Networks | undefined;
}

/** From which proxies connections come. */
export const proxyProtocolOptions: OptionGroup<Promise<ProxyProtocolSettings>> = {
  rows: [
    {
      name: 'proxy-protocol',
      value: 'NETWORKS',
      help: 'accept connections from these proxies only, and take client addresses from their PROXY headers',
    },
  ],
  read: async (values) => {
    const networks = stringOption(values, 'proxy-protocol');
    if (networks === undefined) return { proxies: undefined };
    // Here, so that --help does not load node:net.
    const { parseNetworks } = await import('./address.ts');
    return { proxies: parseNetworks(networks) };
  },
};

/**
 * The value of an option as HOST:PORT; undefined when it is not given.
 *
 * @throws Failure (100) that names what was expected and what was given.
 */
export async function addressOption(
  values: OptionValues,
  name: string,
): Promise<{ readonly host: string; readonly port: number } | undefined> {
  const text = stringOption(values, name);
  if (text === undefined) return undefined;
  const { listenHost, parseHostPort } = await import('./host-port.ts');
  const { host, port } = parseHostPort(text);
  return { host: listenHost(host), port };
}
