// What a type checker must see in the client: checked by tsc in run.sh, not run.
import { Client, DotmaxError, type SearchResult } from 'dotmax';

export async function use(client: Client, queries: Float32Array): Promise<number> {
  const result: SearchResult = await client.search(queries, { dim: 100, topK: 10, metric: 'cosine' });
  const ids: BigUint64Array = result.row(0).ids;
  // @ts-expect-error
  await client.search(queries, { dim: 100, metric: 'dot' });
  // @ts-expect-error
  await client.max(new Int16Array(1), queries);
  for await (const part of client.searchStream([queries], { onError: (error: DotmaxError) => error.fields[0]?.field })) {
    return part.best?.score ?? ids.length;
  }
  return (await client.pairs([{ queries: [[1]], base: { values: [1], dim: 1 } }])).best?.pair ?? 0;
}
