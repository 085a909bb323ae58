import { openSynthetic } from '../src/data/synthetic.ts';
import { makeRng } from '../src/rng.ts';
async function load(split: 'train'|'test', n: number, spec='') { const d = await openSynthetic(spec,{split}); const rows: Float32Array[]=[]; const labels: number[]=[]; const size=d.shape.reduce((a,b)=>a*b,1);
 for await (const b of d.batches({size:500, select:{count:n}})) { for (let i=0;i<b.count;i++){ rows.push(Float32Array.from(b.rows.subarray(i*size,(i+1)*size), v=>v/127.5-1)); labels.push(b.labels![i]!);} } return {rows, labels}; }
function ridge(X: Float32Array[], y: number[], lambda: number, classes=10) { // with bias; returns predictor
 const d=X[0]!.length+1; const G=new Float64Array(d*d), B=new Float64Array(d*classes); const x=new Float64Array(d); x[d-1]=1;
 for (let r=0;r<X.length;r++){ x.set(X[r]!); for(let i=0;i<d;i++){const xi=x[i]!; if(xi===0) continue; for(let j=i;j<d;j++) G[i*d+j]! += xi*x[j]!; for(let c=0;c<classes;c++) B[i*classes+c]! += xi*(c===y[r]?1:-0.1111);} }
 for(let i=0;i<d;i++) G[i*d+i]!+=lambda;
 // cholesky U^T U
 for(let i=0;i<d;i++){ const p=Math.sqrt(G[i*d+i]!); for(let j=i;j<d;j++) G[i*d+j]!/=p; for(let k=i+1;k<d;k++){const f=G[i*d+k]!; if(f===0)continue; for(let j=k;j<d;j++) G[k*d+j]!-=f*G[i*d+j]!;} }
 for(let c=0;c<classes;c++){ for(let i=0;i<d;i++){ let s=B[i*classes+c]!/G[i*d+i]!; B[i*classes+c]=s; for(let k=i+1;k<d;k++) B[k*classes+c]!-=G[i*d+k]!*s;} for(let i=d-1;i>=0;i--){ let s=B[i*classes+c]!; for(let k=i+1;k<d;k++) s-=G[i*d+k]!*B[k*classes+c]!; B[i*classes+c]=s/G[i*d+i]!; } }
 return (v: Float32Array)=>{ let best=-1e9, arg=0; for(let c=0;c<classes;c++){ let s=B[(d-1)*classes+c]!; for(let i=0;i<d-1;i++) s+=v[i]!*B[i*classes+c]!; if(s>best){best=s;arg=c;} } return arg; };
}
const acc=(p:(v:Float32Array)=>number, X:Float32Array[], y:number[])=> X.reduce((s,x,i)=>s+(p(x)===y[i]?1:0),0)/X.length;
let t=performance.now(); const lap=(m:string)=>{console.log(m, ((performance.now()-t)/1000).toFixed(2)+'s'); t=performance.now();};
const N=+(process.argv[2]??5000); const F=+(process.argv[3]??48), K=7;
const tr=await load('train',N), te=await load('test',1000); lap('load');
for (const l of [10,1000]) console.log('linear', l, acc(ridge(tr.rows,tr.labels,l), te.rows, te.labels)); lap('linear');
// random filters: patches of training images, zero mean unit norm
const rng=makeRng(3); const filters=Array.from({length:F},()=>{ const r=tr.rows[rng.int(N)]!; let best: Float32Array|undefined, bv=-1; for(let tries=0;tries<8;tries++){ const py=rng.int(28-K+1),px=rng.int(28-K+1); const f=new Float32Array(K*K); let m=0; for(let i=0;i<K*K;i++){ f[i]=r[(py+Math.floor(i/K))*28+px+i%K]!; m+=f[i]!/(K*K);} let n=0; for(let i=0;i<K*K;i++){f[i]!-=m; n+=f[i]!**2;} if(n>bv){bv=n; best=f.map(v=>v/Math.sqrt(n));} } return best!; });
const feats=(img: Float32Array)=>{ const out=new Float32Array(F*4); const S=2; for(let f=0;f<F;f++){ const w=filters[f]!; let m1=0,m2=0,s1=0,s2=0; for(let y=0;y<=28-K;y+=S)for(let x=0;x<=28-K;x+=S){ let v=0; for(let i=0,k=0;i<K;i++){const o=(y+i)*28+x; for(let j=0;j<K;j++,k++) v+=w[k]!*img[o+j]!;} if(v>m1)m1=v; if(-v>m2)m2=-v; s1+=Math.max(0,v-0.5); s2+=Math.max(0,-v-0.5);} out[4*f]=Math.max(m1,m2); out[4*f+1]=s1+s2; out[4*f+2]=m1+m2; out[4*f+3]=Math.abs(s1-s2);} return out; };
const norm=(v:Float32Array)=>{let n=0; for(const a of v) n+=a*a; n=Math.sqrt(n); return v.map(a=>a/n*10);};
const A=tr.rows.map(r=>norm(feats(r))), T=te.rows.map(r=>norm(feats(r))); lap('features');
for (const l of [0.01,0.1,1,10]) console.log('conv', l, acc(ridge(A,tr.labels,l), T, te.labels)); lap('ridge');
