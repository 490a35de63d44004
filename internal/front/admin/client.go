package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// Client calls a server's admin API. Errors that the server gives are
// *serving.Error, *serving.LoadError or *serving.ModelError, as they were there.
type Client struct {
	address string
	base    string
	token   string
	http    *http.Client
}

// maxAnswer bounds the answers to all calls but queries.
const maxAnswer = 256 << 20

// Dial returns a client for the server at "unix:/path", "http://host:port" or
// "https://host:port". It connects when it is first used. The token may be empty
// for a Unix socket or with a certificate; secure may be nil.
func Dial(address, token string, secure *tls.Config) (*Client, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 16, TLSClientConfig: secure}
	c := &Client{address: address, token: token, http: &http.Client{Transport: transport, CheckRedirect: dontFollow}}
	if path, ok := strings.CutPrefix(address, "unix:"); ok && path != "" {
		c.base = "http://shoal"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		return c, nil
	}
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, serving.Errorf(serving.InvalidArgument, "server address %q must be unix:/path, http://host:port or https://host:port", address)
	}
	c.base = u.Scheme + "://" + u.Host
	return c, nil
}

// dontFollow returns redirects as they are: a token goes to no other server.
func dontFollow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Address is where the server is.
func (c *Client) Address() string { return c.address }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends v as JSON, or nothing, and reads the answer into answer, if any.
func (c *Client) call(ctx context.Context, method, path string, v, answer any) error {
	var body io.Reader
	if v != nil {
		raw, err := json.Marshal(v)
		if err != nil {
			return serving.Errorf(serving.InvalidArgument, "%s cannot be written as JSON: %v", path, err)
		}
		body = bytes.NewReader(raw)
	}
	response, err := c.succeed(ctx, method, path, "application/json", body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of the server at %s: %w", c.address, err)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("reading the answer of the server at %s: %w", c.address, err)
	}
	return nil
}

// succeed is send for calls whose answers never have another status than 2xx.
func (c *Client) succeed(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	response, err := c.send(ctx, method, path, contentType, body)
	if err == nil && response.StatusCode/100 != 2 {
		_ = response.Body.Close()
		return nil, serving.Errorf(serving.Internal, "%s answered %s; is it a Shoal server's admin address?", c.address, response.Status)
	}
	return response, err
}

// send returns an answer that is not a problem. Its body must be closed.
func (c *Client) send(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("calling the server at %s: %w", c.address, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.noAnswer(ctx, err)
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind == problem.ContentType {
		defer response.Body.Close()
		return nil, readProblem(response)
	}
	return response, nil
}

// noAnswer tells a server that is not there from one that broke off.
func (c *Client) noAnswer(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("calling the server at %s: %w", c.address, context.Cause(ctx))
	}
	if failed, ok := errors.AsType[*net.OpError](err); ok && failed.Op == "dial" {
		return serving.Errorf(serving.Unavailable, "no Shoal server answers at %s; start one with `shoal serve` or give --server (%v)", c.address, failed.Err)
	}
	return serving.Errorf(serving.Unavailable, "the server at %s broke off the connection: %v", c.address, err)
}

// readProblem makes an error of a problem again.
func readProblem(response *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	var p problem.Problem
	if err = errors.Join(err, json.Unmarshal(raw, &p)); err != nil {
		return serving.Errorf(serving.Internal, "the server answered %s and an unreadable problem: %v", response.Status, err)
	}
	switch {
	case p.IsModel():
		return &serving.ModelError{Backend: p.Backend, Type: string(p.Code), Message: p.Detail, Traceback: p.Traceback, Status: p.Status}
	case p.Code == serving.LoadFailed:
		return &serving.LoadError{Backend: p.Backend, Type: p.Exception, Message: p.Message, Traceback: p.Traceback}
	}
	return &serving.Error{Code: p.Code, Message: p.Detail}
}
